"""Methods and model families of a user's own: from installed packages (entry points), or from a file that is named."""

import importlib.util
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from types import ModuleType

from tempoquant.errors import InputError, TempoquantError, first_line

GROUP = "tempoquant.methods"
_loaded: set[str] = set()


def load_plugins(files: Sequence[Path] = ()) -> None:
    """Import the modules of the entry point group ``tempoquant.methods``, then ``files``; each once a process.

    A plugin registers what it has when it is imported, with ``@method``, ``@family`` and the registries of
    :mod:`tempoquant.extension`.

    Raises:
        InputError: one line that names the plugin that cannot be imported.
    """
    for entry in metadata.entry_points(group=GROUP):
        if f"{entry.name}={entry.value}" not in _loaded:
            try:
                entry.load()
            except (Exception, SystemExit) as error:
                what = first_line(error) if isinstance(error, TempoquantError) else _with_type(error)
                raise InputError(f"plugin {entry.name!r} ({entry.value}) cannot be loaded: {what}") from error
            _loaded.add(f"{entry.name}={entry.value}")
    for file in files:
        if str(file.resolve()) not in _loaded:
            if not file.is_file():
                raise InputError(f"no plugin file {file}")
            import_file(file)
            _loaded.add(str(file.resolve()))


def _with_type(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def import_file(path: Path) -> ModuleType:
    """The module of a file by its path; the user named it, so it may run.

    Raises:
        InputError: it fails or exits, or is no Python file.
    """
    name = f"tempoquant_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up here; siblings of the file are importable, as when it is run as a script.
    sys.modules[name] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise InputError(f"importing {path} failed: {type(error).__name__}: {first_line(error)}") from error
    finally:
        sys.path.pop(0)
    return module

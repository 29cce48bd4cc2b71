"""Methods of a user's own: from installed packages (entry points), or from a file that is named."""

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from tempoquant.errors import InputError, TempoquantError, first_line
from tempoquant.pipelines import import_file

GROUP = "tempoquant.methods"
_loaded: set[str] = set()


def load_plugins(files: Sequence[Path] = ()) -> None:
    """Import the modules of the entry point group ``tempoquant.methods``, then ``files``; each once a process.

    A plugin registers what it has when it is imported, with ``@method`` and the registries of
    :mod:`tempoquant.extension`.

    Raises:
        InputError: one line that names the plugin that cannot be imported.
    """
    for entry in metadata.entry_points(group=GROUP):
        if f"{entry.name}={entry.value}" not in _loaded:
            try:
                entry.load()
            except (Exception, SystemExit) as error:
                what = first_line(error) if isinstance(error, TempoquantError) else _told(error)
                raise InputError(f"plugin {entry.name!r} ({entry.value}) cannot be loaded: {what}") from error
            _loaded.add(f"{entry.name}={entry.value}")
    for file in files:
        if str(file.resolve()) not in _loaded:
            if not file.is_file():
                raise InputError(f"no plugin file {file}")
            import_file(file)
            _loaded.add(str(file.resolve()))


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}"

"""Imports that wait: names of a package until they are asked for, and actions until another module is imported."""

import ast
import functools
import importlib
import pkgutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any


def lazy_face(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package whose names are imported when they are first asked for.

    The names, and the modules that they come from, are those that the package's ``__init__.py`` imports under
    ``if TYPE_CHECKING``. They are written there once: for type checkers, for the import contract, and for this
    function, which reads the source when the first name is asked for (as ``lazy_loader.attach_stub`` reads a stub).

    No such name may be that of a module of the package, which importing that module would put in its place.

    Args:
        package: ``__name__`` of the package.
        file: its ``__file__``.
    """
    homes = functools.cache(lambda: _imports_for_type_checkers(Path(file)))

    def get(name: str) -> Any:
        if name not in homes():
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(homes()[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return get, lambda: sorted({*vars(sys.modules[package]), *homes()})


def _imports_for_type_checkers(file: Path) -> dict[str, str]:
    """The module of every name that ``file`` imports with ``from ... import ...`` under ``if TYPE_CHECKING``."""
    guarded = [
        node
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    imports = [node for block in guarded for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module or "" for node in imports for alias in node.names}


def after_import(name: str, action: Callable[[], object]) -> None:
    """Call ``action`` once the module ``name`` is imported: at once if it is, else at the end of its import.

    The action runs within the import, so it may use that module, and nothing that is still being imported.

    Args:
        name: of a module that need not be installed.
        action: a function of a module; the same one is called once.
    """
    if name in sys.modules:
        action()
    elif _After(name, action) not in sys.meta_path:
        sys.meta_path.insert(0, _After(name, action))


@dataclass(frozen=True)
class _After(MetaPathFinder):
    """Finds one module as the other finders do, with an action after its execution."""

    name: str
    action: Callable[[], object]

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's spec; None for every other module."""
        if fullname != self.name:
            return None
        others = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((found for found in others if found is not None), None)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            loader.exec_module = functools.partial(self._execute, loader.exec_module)
        return spec

    def _execute(self, execute: Callable[[ModuleType], None], module: ModuleType) -> None:
        execute(module)
        # Not before: an import that failed may be tried again.
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        self.action()


def deferred(name: str) -> Callable[..., Any]:
    """A function that, when it is called, imports and calls another: for tables of names that need no torch.

    Args:
        name: of the other function or class, ``module:name``.
    """

    def call(*args: Any, **options: Any) -> Any:
        return pkgutil.resolve_name(name)(*args, **options)

    return call

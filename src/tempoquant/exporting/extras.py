"""Packages that only an extra brings."""

import importlib
from typing import Any

from tempoquant.errors import InputError


def needed(package: str, extra: str) -> Any:
    """Import ``package``.

    Raises:
        InputError: it is not installed; the message names the extra that brings it.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        raise InputError(f"{package} is not installed: pip install 'tempoquant[{extra}]'") from None

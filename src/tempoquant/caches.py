"""Where what can be made again is kept between runs."""

import os
from pathlib import Path


def user_cache() -> Path | None:
    """The folder of this package in the user's cache, whether it exists or not; None where there is no home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tempoquant"
    except RuntimeError:
        return None

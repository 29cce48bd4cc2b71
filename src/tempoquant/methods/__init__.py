"""One file a published method. Importing this package registers them all."""

from tempoquant.methods import ptqd, rtn, tfmq_cache, tfmq_dm
from tempoquant.methods.plugins import load_plugins
from tempoquant.methods.registry import METHODS, Method, find_method, method, method_recipe

__all__ = [
    "METHODS",
    "Method",
    "find_method",
    "load_plugins",
    "method",
    "method_recipe",
    "ptqd",
    "rtn",
    "tfmq_cache",
    "tfmq_dm",
]

"""One file a published method. Importing this package registers them all."""

from tempoquant.methods import ptqd, rtn, tfmq_dm
from tempoquant.methods.registry import METHODS, Method, method_recipe

__all__ = ["METHODS", "Method", "method_recipe", "ptqd", "rtn", "tfmq_dm"]

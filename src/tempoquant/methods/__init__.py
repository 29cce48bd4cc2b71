"""One file a published method. Importing this package registers them all."""

from tempoquant.methods import brecq, freeze, ptq4dm, q_diffusion, rtn, s_n, tdq, tfmq_dm
from tempoquant.methods.registry import METHODS, Method, method_recipe

__all__ = [
    "METHODS",
    "Method",
    "brecq",
    "freeze",
    "method_recipe",
    "ptq4dm",
    "q_diffusion",
    "rtn",
    "s_n",
    "tdq",
    "tfmq_dm",
]

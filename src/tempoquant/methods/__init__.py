"""One file a published method. Importing this package registers them all."""

from tempoquant.methods import (
    brecq,
    freeze,
    ptq4dm,
    ptqd,
    q_diffusion,
    rtn,
    s_n,
    tdq,
    tempo,
    tfmq_cache,
    tfmq_dm,
    trained,
)
from tempoquant.methods.registry import METHODS, Method, find_method, method, method_recipe
from tempoquant.plugins import load_plugins

__all__ = [
    "METHODS",
    "Method",
    "brecq",
    "find_method",
    "freeze",
    "load_plugins",
    "method",
    "method_recipe",
    "ptq4dm",
    "ptqd",
    "q_diffusion",
    "rtn",
    "s_n",
    "tdq",
    "tempo",
    "tfmq_cache",
    "tfmq_dm",
    "trained",
]

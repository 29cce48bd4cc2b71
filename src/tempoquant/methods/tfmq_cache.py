"""Cached temporal features: the journal version of TFMQ-DM (Huang et al., Temporal Feature Matters, TPAMI 2025).

What the layers that see only the time step put out, ``emb_{t,i} = g_i(h(t))``, is computed once for every step t of the
schedule and every projection i, and looked up while sampling (the paper's cache-based maintenance). h and every g_i
leave the folder. All other layers are quantized as in ``tfmq-dm``, reading ``paper``; they are reconstructed with the
temporal features of full precision.

``tfmq-cache`` stores float16: no quantization at all (the paper's is to the activations' width). ``tfmq-cache-int8``
stores 8-bit integers with ``(s_{t,i}, z_{t,i})`` of their own, ``emb^q = s_{t,i} (q - z_{t,i})``, on min-max ranges.
``tfmq-select`` is disturbance-aware selection: for each i, of the layer quantized by TIAR and FSC and the 8-bit cache,
the one with the smaller ``sum_t ||emb_{t,i} - emb^q_{t,i}||^2``; h stays as long as one layer needs it.

Uncertain, because only the abstract's level of detail is public: the cached width, whether ranges are min-max or
searched, whether the choice is made for each i or each (t, i), and by which norm. A step that was not recorded takes
the features of the nearest one, with a warning at the start of the run. Denoisers whose features follow a class label
or a pooled prompt too are refused.
"""

from typing import Any

from tempoquant.methods.registry import method
from tempoquant.methods.tfmq_dm import tfmq_dm

PAPER = "Huang et al., Temporal Feature Matters, TPAMI 2025 (arXiv 2407.19547)"


def _caching(activations: int, storage: str, choice: str) -> dict[str, Any]:
    entries = tfmq_dm("paper", activations)
    return {**entries, "temporal": {**entries["temporal"], "cache": storage, "cache_choice": choice}}


@method("tfmq-cache", paper=PAPER, summary="temporal features of full precision looked up in float16")
def tfmq_cache(reading: str, activations: int) -> dict[str, Any]:
    """Recipe entries of the float16 cache."""
    return _caching(activations, "float16", "always")


@method("tfmq-cache-int8", paper=PAPER, summary="temporal features of full precision looked up in 8 bits")
def tfmq_cache_int8(reading: str, activations: int) -> dict[str, Any]:
    """Recipe entries of the 8-bit cache."""
    return _caching(activations, "int8", "always")


@method("tfmq-select", paper=PAPER, summary="of TIAR and FSC and an 8-bit cache, what disturbs each feature less")
def tfmq_select(reading: str, activations: int) -> dict[str, Any]:
    """Recipe entries of disturbance-aware selection."""
    return _caching(activations, "int8", "least-error")

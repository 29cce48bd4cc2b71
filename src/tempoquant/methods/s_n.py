"""S_N: N learned intervals for N equal groups of time steps, TDQ's comparison (So et al., NeurIPS 2023, section 5).

The input at training time step t of T takes interval ``floor(t N / T)``; each starts at the range of the recorded
inputs of its group (of all, where none was recorded) and learns as in ``brecq``, whose policy and everything else it
shares. S_1 is one learned interval: LSQ, as in Q-Diffusion.

The integer engine runs it: N scales and zero points an activation instead of one.
"""

from typing import Any

from tempoquant.methods.brecq import BLOCKWISE, brecq
from tempoquant.methods.registry import RecipeFactory, method

PAPER = "So et al., TDQ, NeurIPS 2023 (arXiv 2306.02316), S_N"


def _grouped(groups: int) -> RecipeFactory:
    def s_n(reading: str, activations: int) -> dict[str, Any]:
        steps = {**BLOCKWISE["activations"], "steps": "groups", "groups": groups}
        return brecq(reading, activations) | {"activations": steps}

    return s_n


for _groups in (1, 2, 4, 10, 20):
    _summary = "learned intervals, one for each equal group of time steps: " + str(_groups)
    method(f"s-{_groups}", paper=PAPER, summary=_summary)(_grouped(_groups))

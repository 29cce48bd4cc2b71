"""Methods that train: LSQ, LSQ+, PACT, NIPQ, DuQ and QIL, each with one interval and with TDQ's.

``NAME`` learns one interval an activation, ``NAME-tdq`` one a time step from a network of it, ``s(t) =
softplus(MLP(enc(t)))`` (So et al., NeurIPS 2023, sections 3 and 4); ``lsq-tdq`` is called ``tdq``. All weights of the
network train, on the diffusion loss or against the full-precision predictions, and the average over the steps folds
into integers and tables (:mod:`tempoquant.training`).

Policy of TDQ's public code: float are the layers that see only the time step, both ends, and the attention products.
Its settings for CIFAR-10 (AdamW at 2e-4, step sizes at a tenth of it and without decay, batch 128, 200,000 steps,
warm-up 5,000) are the papers' scale; the lengths that this package defaults to are a processor's.

The integer engine runs them: tables are all that stays.
"""

from typing import Any

from tempoquant.methods.registry import RecipeFactory, method
from tempoquant.methods.tdq import IN_FLOAT
from tempoquant.methods.tdq import PAPER as TDQ

PAPERS = {
    "lsq": "Esser et al., LSQ, ICLR 2020 (arXiv 1902.08153)",
    "lsq+": "Bhalgat et al., LSQ+, CVPRW 2020 (arXiv 2004.09576)",
    "pact": "Choi et al., PACT, 2018 (arXiv 1805.06085)",
    "nipq": "Shin et al., NIPQ, CVPR 2023 (arXiv 2206.00820)",
    "duq": "Park and Yoo, PROFIT, ECCV 2020 (arXiv 2008.04693), DuQ",
    "qil": "Jung et al., QIL, CVPR 2019 (arXiv 1808.05779)",
}
NEEDS = "training: images, or its own trajectories"


def trained(scheme: str, steps: str) -> RecipeFactory:
    """A recipe factory of training with ``scheme`` and intervals that are "constant" or of a "generator"."""

    def entries(reading: str, activations: int) -> dict[str, Any]:
        return {
            "weights": {"symmetric": True, "rounding": "nearest"},
            "activations": {"range": "mse", "steps": steps, "learn": True},
            "attention": {"quantize": False},
            "temporal": {"reconstruction": "block", "calibration": "block"},
            "policy": IN_FLOAT,
            "training": {"scheme": scheme},
        }

    return entries


for _scheme, _paper in PAPERS.items():
    method(_scheme, paper=_paper, summary="trained quantizers, one interval an activation", needs=NEEDS)(
        trained(_scheme, "constant")
    )
    _name = "tdq" if _scheme == "lsq" else f"{_scheme}-tdq"
    _summary = f"{_scheme} with intervals generated from the time step, folded into tables"
    method(_name, paper=TDQ, summary=_summary, needs=NEEDS)(trained(_scheme, "generator"))

"""The bundled conditional model, trained weights and all: classes, guidance, conditional calibration, PTQD after it."""

from collections.abc import Iterator

import pytest
import torch

import tempoquant
from tempoquant.evaluation import evaluate_pair, feature_extractor
from tempoquant.pipelines import resolve, to_images
from tempoquant.reconstruction.effort import EFFORTS, Effort

STEPS, LABELS = 10, list(range(10))
RUN = {"steps": STEPS, "seed": 5, "conditioning": {"class_labels": LABELS, "guidance_scale": 1.5}}


def quantized(method: str, folder, **changes):
    calibration = {"samples": 10, "steps": STEPS, "rows": 60, "rows_per_step": 4, **changes.pop("calibration", {})}
    recipe = tempoquant.method_recipe(method, **{"weights": 4, **changes}, calibration=calibration)
    conditioning = {"class_labels": LABELS, "guidance_scale": 1.5}
    return tempoquant.quantize("fashion32-class", recipe, recording=folder / "recording", conditioning=conditioning)


def psnr(made, **run) -> float:
    options = {"samples": 10, "noise_samples": 2, "projections": made.blueprint.projections, **RUN, **run}
    found = evaluate_pair(resolve("fashion32-class"), made.model, **options)
    return found["psnr"]["mean"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("class")


@pytest.fixture(scope="module")
def reconstruction() -> Iterator[None]:
    """As many iterations as ``--effort fast`` takes: what they gain is measured here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EFFORTS, "fast", Effort(True, 0, 8, 500, 1e-2))
        yield


@pytest.fixture(scope="module")
def healed(folder, reconstruction):
    return quantized("tfmq-dm", folder)


def classes(images: torch.Tensor) -> list[int]:
    """What the bundled classifier of Fashion-MNIST takes images for."""
    return feature_extractor("fashion32-cnn")(to_images(images).permute(0, 3, 1, 2))["logits"].argmax(1).tolist()


def test_it_draws_the_classes_it_is_asked_for():
    labels = LABELS * 2
    images = resolve("fashion32-class").generate(
        20, steps=6, seed=0, conditioning={"class_labels": labels, "guidance_scale": 1.5}
    )
    # One in ten by chance.
    assert sum(a == b for a, b in zip(classes(images), labels, strict=True)) >= 14


@pytest.mark.slow
def test_temporal_layers_see_time_and_class(healed):
    layers = healed.facts["layers"]
    assert layers["temporal"] == 2 and layers["temporal+condition"] > 10 and layers["condition"] == 0


@pytest.mark.slow
def test_temporal_reconstruction_heals_guided_pictures(healed, folder):
    plain = quantized("rtn", folder)
    assert psnr(healed) > psnr(plain) + 6
    images = healed.generate(10, **RUN)
    assert sum(a == b for a, b in zip(classes(images), LABELS, strict=True)) >= 6


@pytest.mark.slow
def test_the_noise_of_guided_predictions_is_corrected(folder):
    # At eta 1, where the derivation holds; three-bit weights rounded to nearest leave the most to correct.
    stochastic = {"weights": 3, "calibration": {"eta": 1.0, "rows": 20}}
    plain, corrected = (
        quantized("rtn", folder / "eta1", correction=correction, **stochastic)
        for correction in (None, {"kind": "correlated", "samples": 10})
    )
    assert corrected.correction is not None and plain.correction is None
    assert psnr(corrected, eta=1.0) > psnr(plain, eta=1.0) + 5

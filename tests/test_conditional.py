"""Conditional models are refused in one line until they are supported."""

import pytest

import tempoquant
from tempoquant.errors import InputError
from tempoquant.methods import method_recipe
from tempoquant.pipelines import BareTarget, Denoiser


def test_conditional_models_are_refused_before_any_work(tmp_path):
    target = BareTarget(Denoiser(None, None, (1, 8, 8)), conditional=True)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="only unconditional models"):
        tempoquant.quantize(target, method_recipe("rtn"), out=tmp_path / "out")
    assert not list(tmp_path.iterdir())

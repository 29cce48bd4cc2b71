"""One call of a denoiser: where its code fails or its output is no prediction, the error names the time step."""

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from tempoquant.errors import InputError, TempoquantError, first_line

FLOAT32_BYTES = 4


def call_denoiser(run: Callable[[], Any], sample: Tensor, at: str, channels: Collection[int] = ()) -> Tensor:
    """The prediction that ``run()`` returns for ``sample``.

    Args:
        run: calls the denoiser.
        sample: (B, C, ...), what it is called with.
        at: the step in words, as ``"time step 500"``.
        channels: as of :func:`check_prediction`.

    Raises:
        InputError: the denoiser's code raises, which is the error's cause, or what it returns is no prediction.
    """
    try:
        prediction = run()
    except TempoquantError:
        raise
    except Exception as error:
        raise denoiser_error(error, at) from error
    return check_prediction(prediction, sample, at, channels)


def denoiser_error(error: Exception, at: str) -> InputError:
    """The error to raise from an exception of the denoiser's own code."""
    return InputError(f"the denoiser raises {type(error).__name__} at {at}: {first_line(error)}")


def check_prediction(prediction: Any, sample: Tensor, at: str, channels: Collection[int] = ()) -> Tensor:
    """``prediction`` itself, if it is one for ``sample``: of its batch and sides, and floating-point.

    Args:
        sample: (B, C, ...).
        at: the step in words.
        channels: how many the prediction may have; any number if empty.

    Raises:
        InputError: it is no such tensor; says what is expected.
    """
    expected = f"{_described(sample)} is expected"
    if not isinstance(prediction, Tensor):
        raise InputError(f"the denoiser returns a {type(prediction).__name__} at {at}: {expected}")
    wrong_shape = (
        prediction.dim() != sample.dim()
        or (prediction.shape[:1], prediction.shape[2:]) != (sample.shape[:1], sample.shape[2:])
        or bool(channels and prediction.shape[1] not in channels)
    )
    # A wider one would change the type of the sample from the next step on.
    too_wide = prediction.dtype.itemsize > max(FLOAT32_BYTES, sample.dtype.itemsize)
    if wrong_shape or too_wide or not prediction.is_floating_point():
        raise InputError(f"the denoiser returns {_described(prediction)} at {at}: {expected}")
    return prediction


def step_name(timestep: Tensor | float) -> str:
    """A call's time steps in words.

    >>> step_name(500), step_name(torch.tensor([1, 1, 900]))
    ('time step 500', 'time steps 1, 900')
    """
    steps = torch.as_tensor(timestep).reshape(-1).tolist()
    distinct = list(dict.fromkeys(f"{step:g}" for step in steps))
    return f"time step{'s' * (len(distinct) > 1)} {', '.join(distinct)}"


def _described(tensor: Tensor) -> str:
    return f"a {str(tensor.dtype).removeprefix('torch.')} tensor of shape {tuple(tensor.shape)}"

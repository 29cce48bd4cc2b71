"""Schedules of flow-matching pipelines, whose time steps move with the number of image tokens."""

from typing import Any

from torch import Tensor

from tempoquant.sampling import set_steps


def token_shift(config: Any, tokens: int) -> float:
    """mu of a schedule for so many image tokens: the line through a scheduler's two settings (diffusers' Flux)."""
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    slope = (high - low) / (many - few)
    # In the order in which diffusers adds: the same bits.
    return tokens * slope + (low - slope * few)


def shifted_timesteps(scheduler: Any, steps: int, tokens: int, **arguments: Any) -> Tensor:
    """(K,) the scheduler's time steps of a run.

    Args:
        scheduler: it is changed.
        steps: of the run.
        tokens: of the image, which count where the scheduler shifts dynamically.
        arguments: of ``scheduler.set_timesteps``.

    Raises:
        InputError: ``steps`` is out of range.
    """
    dynamic = scheduler.config.get("use_dynamic_shifting")
    set_steps(scheduler, steps, **arguments, **({"mu": token_shift(scheduler.config, tokens)} if dynamic else {}))
    return scheduler.timesteps

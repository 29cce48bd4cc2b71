"""A whole training run: steps until the last, with a log, checkpoints and samples on the way."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tempoquant.errors import NumericsError
from tempoquant.progress import Progress
from tempoquant.training.checkpoints import LOG, STATE, append, load_checkpoint, save_checkpoint
from tempoquant.training.rhythm import Rhythm
from tempoquant.training.trainer import Trainer


def train_steps(
    trainer: Trainer,
    folder: Path,
    identity: Mapping[str, Any],
    rhythm: Rhythm,
    progress: Progress,
    draw: Callable[[nn.Module, int], None],
) -> None:
    """Train to the recipe's last step, from the checkpoint in ``folder`` if there is one.

    Args:
        trainer: with the network.
        folder: of checkpoint, log and samples.
        identity: see :func:`save_checkpoint`.
        rhythm: how often to log, save and draw samples.
        progress: shows what goes on.
        draw: makes samples of the averaged network at a step.

    Raises:
        NumericsError: the loss is not finite; names the step and the last good checkpoint.
    """
    writes, total = trainer.processes.writes, trainer.settings.steps
    if writes:
        load_checkpoint(trainer, folder, identity)
    share_state(trainer)
    begun, first = time.perf_counter(), trainer.step
    losses: list[float] = []
    with progress.stage(f"training from step {first}", total - first) as advance:
        while trainer.step < total:
            losses.append(_advance(trainer, folder))
            advance(1)
            if not writes:
                continue
            if _due(trainer.step, rhythm.log, total):
                done = (trainer.step - first) * trainer.settings.batch
                speed = round(done / (time.perf_counter() - begun), 2)
                mean = sum(losses) / len(losses)
                append(folder / LOG, {"step": trainer.step, "loss": mean, "samples_per_second": speed})
                losses.clear()
            if _due(trainer.step, rhythm.save, total):
                save_checkpoint(trainer, folder, identity)
            if _due(trainer.step, rhythm.samples, total):
                with trainer.averaged() as module:
                    draw(module, trainer.step)


def share_state(trainer: Trainer) -> None:
    """Let all processes go on from the first one's state."""
    step = torch.tensor(trainer.step, device=trainer.processes.device)
    trainer.processes.same([step, *trainer.state().values()])
    trainer.step = int(step)


def _advance(trainer: Trainer, folder: Path) -> float:
    try:
        return trainer.advance()
    except NumericsError as error:
        saved = (
            f"the last good checkpoint is in {folder}" if (folder / STATE).exists() else "no checkpoint came before it"
        )
        raise NumericsError(f"{error}: {saved}") from None


def _due(step: int, every: int, total: int) -> bool:
    return every > 0 and (step % every == 0 or step == total)

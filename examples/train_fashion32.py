"""Train a small diffusion model on Fashion-MNIST, like the bundled fashion32, into a diffusers folder.

Example: python examples/train_fashion32.py --steps 7000 --out my-fashion32

With --classes the model draws one of the ten classes when told which; a tenth of the labels is dropped in training, so
that it can be guided. --start fashion32 begins with the weights of a model without classes.

Interrupted work continues with --resume at the last checkpoint, and ends with the same bytes as an uninterrupted run.
"""

import argparse
import copy
import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import fashion_mnist
import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from tempoquant.errors import FormatError, InputError, NumericsError, TempoquantError
from tempoquant.models.class_pipeline import ClassPipeline
from tempoquant.outputs import Kind, check_output, writing
from tempoquant.pipelines import resolve
from tempoquant.progress import Progress, RichProgress, Silent
from tempoquant.randomness import rng
from tempoquant.workplace import partial_of

LEARNING_RATE, LAST_RATE = 5e-4, 0.02
CLASS_RATE = 20.0
"""The learning rate of class embeddings, as a multiple: they start at zero, in a network that heeds none yet."""
WARM_UP = 300
MAX_SNR = 5.0
MAX_NOISE = 25.0
"""Largest weight of a noisy step with classes: there a class is decided, and errors of the noise hardly tell."""
MAX_NORM = 1.0
EMA_DECAY = 0.9995
CLASSES = 10
DROPPED = 0.1
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True)
class Settings:
    """What decides the trained bytes: a run is resumed with the same settings only."""

    steps: int
    batch: int
    seed: int
    threads: int
    classes: bool = False
    start: str = ""


def build_unet(classes: bool) -> UNet2DModel:
    """The architecture of fashion32: 1.6 million parameters; with classes, the last embedding stands for none."""
    return UNet2DModel(
        sample_size=32,
        in_channels=1,
        out_channels=1,
        layers_per_block=2,
        block_out_channels=(32, 64, 64),
        norm_num_groups=16,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=None,
        num_class_embeds=CLASSES + 1 if classes else None,
    )


def build_scheduler() -> DDIMScheduler:
    """T = 1000 with linear betas; the network predicts the noise."""
    return DDIMScheduler(num_train_timesteps=1000, beta_schedule="linear", clip_sample=True, timestep_spacing="leading")


class Training:
    """The state of a run and its step: all of it is in a checkpoint, and a step draws by its own number alone."""

    def __init__(self, pictures: Tensor, labels: Tensor | None, settings: Settings):
        self.pictures, self.labels, self.settings, self.step = pictures, labels, settings, 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            unet = build_unet(settings.classes)
        start_from(unet, settings.start)
        self.ema = copy.deepcopy(unet).eval().requires_grad_(False)
        self.unet = unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.scheduler = build_scheduler()
        alphas = self.scheduler.alphas_cumprod
        snr = alphas / (1 - alphas)
        self.weight = snr.clamp(max=MAX_SNR) / snr
        if settings.classes:
            self.weight = self.weight.maximum((1 / snr).clamp(max=MAX_NOISE))
        self.optimizer = torch.optim.AdamW(
            groups_of(self.unet), LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-4, fused=True
        )

    def learning_rate(self) -> float:
        """A warm-up, then a cosine over the steps that ends at 2 %."""
        cosine = 0.5 * (1 + math.cos(math.pi * self.step / self.settings.steps))
        warm = min(1.0, (self.step + 1) / min(WARM_UP, max(1, self.settings.steps // 8)))
        return LEARNING_RATE * warm * (cosine * (1 - LAST_RATE) + LAST_RATE)

    def draw(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """This step's samples, noise, time steps and labels; t in mirrored pairs, for a steadier loss."""
        random, batch = rng("fashion32", self.settings.seed, self.step), self.settings.batch
        rows = torch.randint(len(self.pictures), (batch,), generator=random)
        half = torch.randint(1000, ((batch + 1) // 2,), generator=random)
        samples = fashion_mnist.to_sample(self.pictures[rows])
        noise = torch.randn(samples.shape, generator=random)
        labels = None
        if self.labels is not None:
            dropped = torch.rand(batch, generator=random) < DROPPED
            labels = self.labels[rows].masked_fill(dropped, CLASSES)
        return samples, noise, torch.cat([half, 999 - half])[:batch], labels

    def advance(self) -> float:
        """One step of training; its loss."""
        samples, noise, times, labels = self.draw()
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate() * group["multiple"]
        noisy = self.scheduler.add_noise(samples, noise, times)
        predicted = self.unet(noisy.to(memory_format=torch.channels_last), times, class_labels=labels).sample
        loss = ((predicted - noise).square().mean((1, 2, 3)) * self.weight[times]).mean()
        if not loss.isfinite():
            raise NumericsError(f"the loss of step {self.step} is {loss.item()}")
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), MAX_NORM)
        self.optimizer.step()
        self.step += 1
        self._average()
        return loss.item()

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(EMA_DECAY, (1 + self.step) / (10 + self.step))
        for mean, value in zip(self.ema.parameters(), self.unet.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)

    def state(self) -> dict[str, Tensor]:
        """Every tensor that the next step depends on, by name."""
        tensors = {f"ema.{name}": value for name, value in self.ema.state_dict().items()}
        for name, parameter in self.unet.named_parameters():
            tensors[f"unet.{name}"] = parameter.detach()
            for moment in MOMENTS:
                tensors[f"{moment}.{name}"] = self.optimizer.state[parameter][moment]
        return {name: value.contiguous() for name, value in tensors.items()}

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], step: int) -> None:
        """Continue after ``step`` steps with the tensors of :meth:`state`."""
        self.step = step
        for name, value in self.ema.state_dict().items():
            value.copy_(tensors[f"ema.{name}"])
        for name, parameter in self.unet.named_parameters():
            parameter.copy_(tensors[f"unet.{name}"])
            moments = {moment: torch.zeros_like(parameter) for moment in MOMENTS[:2]}  # the parameter's strides
            moments["step"] = torch.zeros(())
            for moment, value in moments.items():
                value.copy_(tensors[f"{moment}.{name}"])
            self.optimizer.state[parameter] = moments


def groups_of(unet: UNet2DModel) -> list[dict[str, Any]]:
    """The optimizer's groups: class embeddings have a rate of their own."""
    of_classes = [p for name, p in unet.named_parameters() if name.startswith("class_embedding")]
    others = [p for name, p in unet.named_parameters() if not name.startswith("class_embedding")]
    groups = [{"params": others, "multiple": 1.0}, {"params": of_classes, "multiple": CLASS_RATE}]
    return [group for group in groups if group["params"]]


def start_from(unet: UNet2DModel, start: str) -> None:
    """Give ``unet`` the weights of the model called ``start``; class embeddings begin at zero."""
    if unet.class_embedding is not None:
        torch.nn.init.zeros_(unet.class_embedding.weight)
    if not start:
        return
    weights = resolve(start).denoiser.module.state_dict()
    try:
        left = unet.load_state_dict(weights, strict=False)
    except RuntimeError:
        raise InputError(f"{start} is no model of this architecture") from None
    if left.unexpected_keys or any(not key.startswith("class_embedding") for key in left.missing_keys):
        raise InputError(f"{start} is no model of this architecture")


def save_checkpoint(training: Training, folder: Path) -> None:
    """Write tensors under a new name, then the JSON that names them: a crash between leaves the former checkpoint."""
    file = f"state-{training.step}.safetensors"
    save_file(training.state(), folder / file)
    new = folder / "state.json.new"
    new.write_text(json.dumps({"step": training.step, "tensors": file, **asdict(training.settings)}, indent=2) + "\n")
    os.replace(new, folder / "state.json")
    for old in folder.glob("state-*.safetensors"):
        if old.name != file:
            old.unlink()


def check_work(work: Path, covered: bool) -> None:
    """Refuse a place of unfinished work that holds something else, or work that neither flag covers."""
    if work.exists() and any(work.iterdir()) and not (work / "state.json").is_file():
        raise InputError(f"{work} holds no unfinished work: move it, or choose another --out")
    if work.exists() and not covered:
        raise InputError(f"{work} holds unfinished work: continue it with --resume or drop it with --overwrite")


def forget_checkpoints(folder: Path) -> None:
    """Delete what :func:`save_checkpoint` wrote."""
    for path in (*folder.glob("state-*.safetensors"), folder / "state.json", folder / "state.json.new"):
        path.unlink(missing_ok=True)


def load_checkpoint(training: Training, folder: Path) -> None:
    """Continue the work in ``folder``, if any was kept.

    Raises:
        InputError: it was begun with other settings. FormatError: it cannot be read.
    """
    if not (folder / "state.json").is_file():
        return
    try:
        found = json.loads((folder / "state.json").read_text())
        for name, wanted in asdict(training.settings).items():
            if found[name] != wanted:
                raise InputError(f"{folder} was begun with {name} = {found[name]}, not {wanted}: resume with the same")
        training.restore(load_file(folder / f"state-{int(found['step'])}.safetensors"), int(found["step"]))
    except InputError:
        raise
    except Exception as error:
        raise FormatError(f"{folder} holds no checkpoint that can be continued: {error}") from error


def train(
    pictures: Tensor,
    labels: Tensor | None,
    settings: Settings,
    out: Path,
    *,
    save_every: int = 500,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Train into the folder ``out``; unfinished work is in ``out.partial``."""
    work, training = partial_of(out), Training(pictures, labels, settings)
    check_work(work, resume or overwrite)
    work.mkdir(exist_ok=True)
    if not resume:
        forget_checkpoints(work)
    load_checkpoint(training, work)
    total = 0.0
    with (progress or Silent()).stage(f"training from step {training.step}", settings.steps - training.step) as advance:
        while training.step < settings.steps:
            total += training.advance()
            advance(1)
            if training.step % save_every == 0:
                save_checkpoint(training, work)
                print(f"step {training.step}: mean loss {total / save_every:.4f}", flush=True)
                total = 0.0
    pipeline = ClassPipeline if settings.classes else DDIMPipeline
    with writing(out, Kind.TRAINED, overwrite=overwrite) as output, output.staging() as folder:
        pipeline(unet=training.ema, scheduler=training.scheduler).save_pretrained(folder)
    forget_checkpoints(work)
    work.rmdir()


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the diffusers folder to write")
    parser.add_argument("--data", type=Path, default=fashion_mnist.FOLDER, help="folder of the idx.gz files")
    parser.add_argument("--steps", type=int, default=7000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--classes", action="store_true", help="train with labels")
    parser.add_argument("--start", default="", help="a model to begin with, fashion32 say")
    parser.add_argument("--save-every", type=int, default=500, help="steps between checkpoints")
    parser.add_argument("--resume", action="store_true", help="continue at the last checkpoint")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing folder")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line: 0 on success, 2 with one line on bad input."""
    given = arguments(words)
    try:
        for name in ("steps", "batch", "threads", "save_every"):
            if getattr(given, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} {getattr(given, name)}: at least 1")
        check_output(given.out, given.overwrite, Kind.TRAINED)
        check_work(partial_of(given.out), given.resume or given.overwrite)
        torch.set_num_threads(given.threads)
        settings = Settings(given.steps, given.batch, given.seed, given.threads, given.classes, given.start)
        labels = fashion_mnist.labels(given.data) if given.classes else None
        options = {"save_every": given.save_every, "resume": given.resume, "overwrite": given.overwrite}
        train(fashion_mnist.images(given.data), labels, settings, given.out, progress=RichProgress(), **options)
    except TempoquantError as error:
        print(f"train_fashion32: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

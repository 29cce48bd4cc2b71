"""Tuning of the whole quantized denoiser: what is not integers follows full precision's prediction of the noise.

Units are reconstructed one after another, so the errors that one leaves are another's inputs. Here the weights' scales,
biases and the affine parameters of norms, which cost nothing at run time, learn together against ``eps(x_t, t)`` of the
full-precision denoiser on recorded inputs (the global step of EfficientDM, He et al., ICLR 2024, and QuEST, Wang et
al., ICCV 2025, without their low-rank weights). Integers and intervals stay as they are.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tempoquant.layers import QuantizedLayer, learning_kernels
from tempoquant.progress import Progress
from tempoquant.randomness import rng
from tempoquant.recipe import Tuning
from tempoquant.reconstruction.cache import UnitCache
from tempoquant.recording import Store
from tempoquant.sampling import Denoiser

BETAS, EPSILON = (0.9, 0.99), 1e-12
SMALLEST = 1e-4
"""Least size that a tensor's step is a share of: tensors that start at zero move too."""
JUDGED = 64
SAVE_EVERY = 20


@dataclass(frozen=True)
class Tuner:
    """Tunes one denoiser.

    Attributes:
        quantized, full: the denoiser with everything in place, changed here, and the original.
        store: its recording.
        how: settings.
        seed: keys the random draws.
        cache: the state of unfinished work.
    """

    quantized: Denoiser
    full: Denoiser
    store: Store
    how: Tuning
    seed: int
    cache: UnitCache
    progress: Progress

    def run(self) -> None:
        """Tune; parameters stay as they were if the loss on inputs that were not learned from would rise."""
        tunable = tunable_tensors(self.quantized.module)
        start = {name: tensor.detach().clone() for name, tensor in tunable.items()}
        before = self._judge()
        with torch.enable_grad(), learning_kernels(self.quantized.module):
            self._optimize(tunable)
        # So written, a loss that is not a number is no gain either.
        if not self._judge() <= before:
            for name, tensor in tunable.items():
                tensor.copy_(start[name])

    def _optimize(self, tunable: dict[str, Tensor]) -> None:
        sizes = {n: self.how.lr * float(t.detach().abs().mean().clamp(min=SMALLEST)) for n, t in tunable.items()}
        groups = [{"params": [tensor.requires_grad_()], "lr": sizes[name]} for name, tensor in tunable.items()]
        optimizer = torch.optim.Adam(groups, betas=BETAS, eps=EPSILON)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.how.iterations)
        begun = self._resume(tunable, optimizer)
        with self.progress.stage("tuning", self.how.iterations) as advance:
            for iteration in range(self.how.iterations):
                if iteration >= begun:
                    optimizer.zero_grad()
                    self._loss(*self._draw("learn", iteration)).backward()
                    optimizer.step()
                schedule.step()
                advance(1)
                if iteration >= begun and (iteration + 1) % SAVE_EVERY == 0:
                    self._save(tunable, optimizer, iteration + 1)
        for tensor in tunable.values():
            tensor.requires_grad_(False)

    def _draw(self, purpose: str, number: int) -> tuple[Tensor, Tensor]:
        """Steps and rows of one batch; the last eighth of the rows judges, the others are learned from."""
        draws, held_out = rng(self.seed, "tuning", purpose, number), max(1, self.store.samples // 8)
        low, high = 0, max(1, self.store.samples - held_out)
        if purpose == "judge":
            low, high = self.store.samples - held_out, self.store.samples
        steps = torch.randint(self.store.steps, (self.how.batch,), generator=draws)
        return steps, torch.randint(low, high, (self.how.batch,), generator=draws)

    def _loss(self, steps: Tensor, rows: Tensor) -> Tensor:
        sample, timestep, conditioning = self.store.read(steps, rows)
        with torch.no_grad():
            target = self.full(sample, timestep, **conditioning)
        return (self.quantized(sample, timestep, **conditioning) - target).square().mean()

    def _judge(self) -> float:
        """The loss on held-out rows, as the denoiser will run."""
        batches = -(-JUDGED // self.how.batch)
        with torch.no_grad():
            return sum(float(self._loss(*self._draw("judge", number))) for number in range(batches)) / batches

    def _save(self, tunable: dict[str, Tensor], optimizer: torch.optim.Adam, done: int) -> None:
        state = {"done": torch.tensor(done)}
        for name, tensor in tunable.items():
            state[f"value.{name}"] = tensor.detach()
            state |= {f"{key}.{name}": value for key, value in optimizer.state[tensor].items()}
        self.cache.save("tuning", state)

    def _resume(self, tunable: dict[str, Tensor], optimizer: torch.optim.Adam) -> int:
        """Iterations that an earlier run did, its state put back."""
        state = self.cache.load("tuning")
        if state is None:
            return 0
        for name, tensor in tunable.items():
            tensor.data.copy_(state[f"value.{name}"])
            optimizer.state[tensor] = {key: state[f"{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
        return int(state["done"])


def tunable_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Scales of integer weights, and every float vector among the parameters: biases and norms, by name."""
    found: dict[str, Tensor] = {}
    for name, part in module.named_modules():
        if isinstance(part, QuantizedLayer) and part.weight_scale is not None:
            found[f"{name}.weight_scale"] = part.weight_scale
    vectors = {n: p for n, p in module.named_parameters() if p.dim() == 1 and p.is_floating_point()}
    return found | vectors

"""The training loop's state and its step. A step draws by its own number alone, so a resumed run equals another."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.errors import NumericsError
from tempoquant.randomness import rng
from tempoquant.recipe import Recipe
from tempoquant.sampling import Denoiser
from tempoquant.training.objectives import Batch, Objective
from tempoquant.training.prepare import Trainee
from tempoquant.training.processes import Processes
from tempoquant.training.weights import WeightQuantizer

MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class Trainer:
    """Trains a network; everything that the next step depends on is in :meth:`state`.

    Args:
        trainee: what trains.
        denoiser: the same network, wrapped.
        objective: draws batches.
        recipe: with a training part.
        processes: those that train together.

    Attributes:
        step: how many steps are done.
        parameters: all that trains, by name.
        ema: their averages, by name.
    """

    def __init__(
        self, trainee: Trainee, denoiser: Denoiser, objective: Objective, recipe: Recipe, processes: Processes
    ):
        assert recipe.training is not None
        self.trainee, self.denoiser, self.objective = trainee, denoiser, objective
        self.settings, self.seed, self.processes, self.step = recipe.training, recipe.seed, processes, 0
        self.parameters = {n: p for n, p in trainee.module.named_parameters() if p.requires_grad}
        self.ema = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.rows = processes.rows(self.settings.batch // self.settings.accumulate)
        self.optimizer = torch.optim.AdamW(self._groups())
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups]

    def advance(self) -> float:
        """One step of training; its loss.

        Raises:
            NumericsError: the loss or a gradient is not finite; nothing was changed.
        """
        self.trainee.module.train()
        self.optimizer.zero_grad(set_to_none=True)
        losses = [self._part(part) for part in range(self.settings.accumulate)]
        mean = torch.stack(losses).mean()
        for parameter in self.parameters.values():
            # Of a batch that clips nothing, some intervals have none; averages over processes need the same of all.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in self.parameters.values() if parameter.grad is not None]
        self.processes.average([mean, *gradients])
        norm = torch.nn.utils.get_total_norm(gradients)
        if not (mean.isfinite() and norm.isfinite()):
            what = "loss" if not mean.isfinite() else "gradient"
            raise NumericsError(f"the {what} of step {self.step} is not finite ({float(mean):g})")
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * self.rate()
        self.optimizer.step()
        self.step += 1
        self._average()
        return float(mean)

    def rate(self) -> float:
        """The learning rate's factor at this step: warm-up, then a half cosine to 0 or nothing more."""
        warm = min(1.0, (self.step + 1) / max(1, self.settings.warm_up))
        cosine = 0.5 * (1 + math.cos(math.pi * self.step / self.settings.steps))
        return warm * (cosine if self.settings.schedule == "cosine" else 1.0)

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The network with its averages, evaluating, for the time of a ``with`` block."""
        held = {name: p.detach().clone() for name, p in self.parameters.items()}
        try:
            self.use(self.ema)
            yield self.trainee.module.eval()
        finally:
            self.use(held)

    @torch.no_grad()
    def use(self, values: dict[str, Tensor]) -> None:
        """Set all parameters."""
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])

    def state(self) -> dict[str, Tensor]:
        """Every tensor that the next step depends on, by name."""
        tensors = {f"ema.{name}": value for name, value in self.ema.items()}
        for name, parameter in self.parameters.items():
            tensors[f"parameter.{name}"] = parameter.detach()
            for moment, value in self._moments(parameter).items():
                tensors[f"{moment}.{name}"] = value
        return tensors

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], step: int) -> None:
        """Continue after ``step`` steps with the tensors of :meth:`state`.

        Raises:
            KeyError, RuntimeError: they are not this network's.
        """
        for name, value in self.state().items():
            value.copy_(tensors[name])
        self.step = step

    def _part(self, part: int) -> Tensor:
        """The loss of one part of a batch, its gradients added to those of the others."""
        key = (self.seed, self.step, part)
        count = self.settings.batch // self.settings.accumulate
        batch = self.objective.draw(count, self.rows, *key)
        # Each process draws noise for its own rows.
        self.trainee.draws.now = rng("training noise", *key, self.processes.rank)
        seed = int(torch.randint(2**62, (), generator=rng("dropout", *key, self.processes.rank)))
        kind = batch.sample.device.type
        devices = [torch.cuda.current_device()] if kind == "cuda" else []
        dtype = torch.bfloat16 if self.settings.autocast == "bfloat16" else torch.float32
        with torch.random.fork_rng(devices=devices), torch.enable_grad():
            torch.manual_seed(seed)
            with torch.autocast(kind, dtype, enabled=self.settings.autocast is not None):
                loss = self._loss(batch)
            ((loss + self._penalty()) / self.settings.accumulate).backward()
        self.trainee.draws.now = None
        return loss.detach()

    def _loss(self, batch: Batch) -> Tensor:
        predicted = self.denoiser(batch.sample, batch.timestep, **batch.conditioning).float()
        # Of a network that also predicts a variance, the mean alone is trained.
        error = predicted[:, : batch.target.shape[1]] - batch.target[:, : predicted.shape[1]].float()
        return error.square().mean() if self.settings.loss == "l2" else error.abs().mean()

    def _penalty(self) -> Tensor | float:
        bank = self.trainee.bank
        return 0.0 if bank is None or bank.scheme.penalty == 0 or bank.current is None else bank.penalty()

    def _groups(self) -> list[dict[str, Any]]:
        """Step sizes and offsets, which do not decay; interval networks; weights (as in TDQ's public code)."""
        bank, module = self.trainee.bank, self.trainee.module
        networks = set() if bank is None or bank.generators is None else {id(p) for p in bank.generators.parameters()}
        quantizers = [part for part in module.modules() if isinstance(part, WeightQuantizer)]
        steps = {id(p) for part in [*quantizers, *([] if bank is None else [bank])] for p in part.parameters()}
        kinds: dict[str, list[Tensor]] = {"steps": [], "networks": [], "weights": []}
        for p in self.parameters.values():
            kinds["networks" if id(p) in networks else "steps" if id(p) in steps else "weights"].append(p)
        settings = self.settings
        return [
            {"params": kinds["steps"], "lr": settings.lr * settings.step_lr, "weight_decay": 0.0},
            {"params": kinds["networks"], "lr": settings.lr, "weight_decay": settings.weight_decay},
            {"params": kinds["weights"], "lr": settings.lr, "weight_decay": settings.weight_decay},
        ]

    def _moments(self, parameter: Tensor) -> dict[str, Tensor]:
        """AdamW's memory of a parameter; zeros before the first step."""
        memory = self.optimizer.state[parameter]
        if not memory:
            memory |= {name: torch.zeros_like(parameter) for name in MOMENTS[:2]} | {"step": torch.zeros(())}
            self.optimizer.state[parameter] = memory
        return {moment: memory[moment] for moment in MOMENTS}

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.ema.values()), list(self.parameters.values()), 1 - decay)

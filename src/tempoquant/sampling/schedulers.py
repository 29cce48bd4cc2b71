"""Samplers by the names papers use, as diffusers schedulers in the configuration a model was trained for."""

import copy
import functools
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tempoquant.arguments import named_arguments
from tempoquant.errors import InputError, first_line
from tempoquant.limits import MOST_TRAIN_TIMESTEPS
from tempoquant.sampling.samplers import SAMPLERS, check_sampler

Stepper = Callable[..., Any]
"""``stepper(scheduler, step, **arguments)`` in the place of ``scheduler.step(**arguments)``; ``step`` is the stock one.

The arguments come by name: ``model_output``, ``timestep``, ``sample`` and what else the call has.
"""


def build_scheduler(scheduler: Any, sampler: str | None = None) -> Any:
    """A fresh scheduler that shares nothing with ``scheduler`` but its :data:`Stepper`, if it has one.

    Args:
        scheduler: the model's own, in the configuration the model was trained for.
        sampler: a name of :data:`SAMPLERS`; None keeps the model's own sampler.

    Raises:
        InputError: the name is not known.
    """
    if sampler is None:
        return copy.deepcopy(scheduler)
    name, settings = SAMPLERS[check_sampler(sampler)]
    scheduler_class = pkgutil.resolve_name(name)
    # Without its note of which values were defaults, from_config keeps them all, as it does for a scheduler that was
    # saved and loaded: PLMS would otherwise differ between the two.
    config = {key: value for key, value in scheduler.config.items() if key != "_use_default_values"}
    fresh = scheduler_class.from_config(config, **settings)
    stepper = stepper_of(scheduler)
    return fresh if stepper is None else with_step(fresh, stepper)


def with_step(scheduler: Any, stepper: Stepper) -> Any:
    """A copy of ``scheduler`` whose steps are taken by ``stepper``, and so are those of its copies.

    It is of the same class to everyone who asks, its ``step`` has the same signature, and it saves as what it was.
    """
    stock = type(scheduler)

    @functools.wraps(stock.step)
    def step(*args: Any, **kwargs: Any) -> Any:
        arguments = named_arguments(stock.step, args, kwargs)
        scheduler = arguments.pop("self")
        return stepper(scheduler, functools.partial(stock.step, scheduler), **arguments)

    other = copy.deepcopy(scheduler)
    # On the class, because a copy of an instance's function would still be bound to the original.
    parts = {"__module__": stock.__module__, "step": step, "stepper": staticmethod(stepper)}
    other.__class__ = type(stock.__name__, (stock,), parts)
    return other


def stepper_of(scheduler: Any) -> Stepper | None:
    """What takes the steps of a scheduler of :func:`with_step`; None for a stock one."""
    return getattr(type(scheduler), "stepper", None)


def set_steps(scheduler: Any, steps: int, device: Any = None, **arguments: Any) -> None:
    """Set the number of sampling steps, checked: diffusers accepts values that fail much later.

    Args:
        scheduler: it is changed.
        steps: of a run.
        device: of its time steps.
        arguments: further ones of ``scheduler.set_timesteps``, such as the ``mu`` of a flow-matching schedule.

    Raises:
        InputError: ``steps`` is not in 1 .. ``num_train_timesteps``, or the scheduler's settings are not valid.
    """
    check_steps(scheduler, steps)
    with settings_of(scheduler):
        scheduler.set_timesteps(steps, device=device, **arguments)


def check_steps(scheduler: Any, steps: int) -> None:
    """Raise InputError unless ``steps`` is in 1 .. ``num_train_timesteps``."""
    most = int(scheduler.config.get("num_train_timesteps", MOST_TRAIN_TIMESTEPS))
    if not 1 <= steps <= most:
        raise InputError(f"steps {steps} is out of range: this schedule takes 1 to {most}")


@contextmanager
def settings_of(scheduler: Any) -> Iterator[None]:
    """Say in one line what a scheduler finds wrong with its settings: diffusers looks at most when they are used.

    Raises:
        InputError: it fails within the block.
    """
    try:
        yield
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError) as error:
        what = f"{type(scheduler).__name__} cannot be used with its settings: {first_line(error)}"
        raise InputError(what) from error


def step_options(scheduler: Any, eta: float, generators: list[Any]) -> dict[str, Any]:
    """The keyword arguments of ``scheduler.step`` for this noise scale and these per-sample generators.

    Args:
        eta: DDIM's noise scale (Song et al. 2021, eq. 16), 0 to 1; only DDIM has one.

    Raises:
        InputError: ``eta`` is out of range, or not zero for a scheduler without one.
    """
    check_eta(scheduler, eta)
    accepted = inspect.signature(scheduler.step).parameters
    options: dict[str, Any] = {"eta": eta} if "eta" in accepted else {}
    if "generator" in accepted:
        options["generator"] = generators
    return options


def check_eta(scheduler: Any, eta: float) -> None:
    """Raise InputError unless ``eta`` is one that ``scheduler`` can use."""
    if not 0.0 <= eta <= 1.0:
        raise InputError(f"eta {eta} is out of range: 0 to 1")
    if eta > 0 and "eta" not in inspect.signature(scheduler.step).parameters:
        raise InputError(f"eta {eta} needs the ddim sampler: {type(scheduler).__name__} has no eta")

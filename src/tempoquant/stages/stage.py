"""What a stage of a job is, how a user adds one, and the order in which stages run."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import ClassVar

from tempoquant.errors import InputError, unknown
from tempoquant.extension import STAGES, AddedStage, guarded, is_foreign
from tempoquant.recipe import Recipe
from tempoquant.stages.state import JobState


class Stage:
    """One step of a job; subclasses define :meth:`run`.

    Attributes:
        name: what timings and recipes call it.
        needs: attributes of :class:`JobState` that it reads and an earlier stage sets.
        gives: attributes of :class:`JobState` that it sets.
        keeps: the folder of the work that it keeps for a run which continues a killed one, or "". That of a stage of
            one's own begins with ``stages/``.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ()
    keeps: ClassVar[str] = ""

    def applies(self, recipe: Recipe) -> bool:
        """Whether ``recipe`` asks for it."""
        return True

    def run(self, state: JobState) -> None:
        """Do the work on ``state``, in place; the same bits whether or not kept work is found."""
        raise NotImplementedError(f"{type(self).__name__} must define run")


def stage(*, after: str) -> Callable[[type[Stage]], type[Stage]]:
    """Decorator: register a stage of a user's own, which a recipe's entry ``stages`` asks for by its name.

    Args:
        after: the name of the stage that it follows.

    Raises:
        InputError: another stage has its name.
    """

    def register(added: type[Stage]) -> type[Stage]:
        STAGES.add(added.name, AddedStage(added, after))
        return added

    return register


def ordered(stages: Sequence[Stage], recipe: Recipe) -> list[Stage]:
    """Those of ``stages`` that apply to ``recipe``, and the user's own that it names, each after the one it follows.

    Args:
        stages: the built-in ones in order, whether or not they apply.

    Raises:
        InputError: a stage has the name of another one, follows one that there is not, or needs what no stage before
            it gives.
    """
    order = list(stages)
    followed = [""] * len(order)
    for name in recipe.stages:
        added = STAGES[STAGES.check(name)]
        names = [present.name for present in order]
        if name in names:
            raise InputError(f"stage {name!r} exists already: choose another name")
        if added.after not in names:
            raise unknown("stage", added.after, names)
        place = names.index(added.after) + 1
        # Stages that follow the same one stay in the recipe's order.
        while place < len(order) and followed[place] == added.after:
            place += 1
        order.insert(place, added.make())
        followed.insert(place, added.after)
    found = [present for present in order if present.applies(recipe)]
    _check_needs(found)
    return found


def run_stages(stages: Sequence[Stage], state: JobState) -> None:
    """Run ``stages`` in order, each under its name on the stopwatch.

    Raises:
        InputError: a stage of a user's own fails; the message names it.
    """
    for current in stages:
        with state.watch.stage(current.name):
            if is_foreign(type(current)):
                guarded(f"stage {current.name!r}", current.run, state)
            else:
                current.run(state)


def _check_needs(stages: Sequence[Stage]) -> None:
    there = {field.name for field in fields(JobState) if field.init}
    for current in stages:
        missing = [name for name in current.needs if name not in there]
        if missing:
            raise InputError(f"stage {current.name!r} needs {missing[0]!r}, which no stage before it gives")
        there.update(current.gives)

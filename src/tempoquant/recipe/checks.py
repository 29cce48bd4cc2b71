"""Checks that a recipe suits the command that runs it, before any work."""

from tempoquant.errors import InputError
from tempoquant.recipe.recipe import Recipe


def check_training(recipe: Recipe, *, trains: bool) -> None:
    """Refuse a recipe of training in post-training quantization, and the other way round.

    Args:
        recipe: to run.
        trains: whether it is run by ``train``.

    Raises:
        InputError: it is of the other kind; says which command and function take it.
    """
    if not trains and recipe.training is not None:
        raise InputError(f"{recipe.method} trains: use `tempoquant train`, or tempoquant.train()")
    if trains and recipe.training is None:
        raise InputError(f"{recipe.method} does not train: use `tempoquant quantize`, or tempoquant.quantize()")


def check_storable(recipe: Recipe) -> None:
    """Raise InputError if what the recipe makes has no form on disk: intervals that follow their own input."""
    if recipe.training is not None and not recipe.has_form:
        raise InputError(f"training.sees = {recipe.training.sees!r}: intervals from the input have no form on disk")

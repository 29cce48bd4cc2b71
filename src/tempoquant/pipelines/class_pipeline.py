"""Where :mod:`tempoquant.models.class_pipeline` was: the index of folders that were saved then names it."""

from tempoquant.models.class_pipeline import ClassPipeline

__all__ = ["ClassPipeline"]

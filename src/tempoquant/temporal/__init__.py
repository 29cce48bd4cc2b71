"""The temporal information block: its program, its finite set of activations, cached features, frozen schedules."""

from tempoquant.temporal.feature_cache import cache_features
from tempoquant.temporal.finite_set import finite_set_calibration
from tempoquant.temporal.frozen_schedule import freeze_schedule
from tempoquant.temporal.program import TemporalProgram
from tempoquant.temporal.program_check import temporal_program
from tempoquant.temporal.prompt_tables import PromptTables, restart_call
from tempoquant.temporal.recorded_inputs import most_conditions, temporal_inputs
from tempoquant.temporal.replacements import CachedLayer, DeadLayer, Replacement, install_replacements, replacements
from tempoquant.temporal.table import TemporalTable, has_tables

__all__ = [
    "CachedLayer",
    "DeadLayer",
    "PromptTables",
    "Replacement",
    "TemporalProgram",
    "TemporalTable",
    "cache_features",
    "finite_set_calibration",
    "freeze_schedule",
    "has_tables",
    "install_replacements",
    "most_conditions",
    "replacements",
    "restart_call",
    "temporal_inputs",
    "temporal_program",
]

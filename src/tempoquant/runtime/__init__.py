"""Running quantized layers: in simulation, or in real integer arithmetic."""

from tempoquant.runtime.engine import ENGINES, engine_report, use_engine
from tempoquant.runtime.frozen import freeze_schedule
from tempoquant.runtime.prompt_tables import PromptTables

__all__ = ["ENGINES", "PromptTables", "engine_report", "freeze_schedule", "use_engine"]

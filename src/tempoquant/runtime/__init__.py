"""Running quantized layers: in simulation, or in real integer arithmetic."""

from tempoquant.runtime.engine import ENGINES, engine_report, use_engine
from tempoquant.runtime.frozen import freeze_schedule
from tempoquant.runtime.prompt_tables import PromptTables
from tempoquant.runtime.replay import Replay, has_hooks

__all__ = ["ENGINES", "PromptTables", "Replay", "engine_report", "freeze_schedule", "has_hooks", "use_engine"]

"""Running quantized layers: in simulation, or in real integer arithmetic."""

from tempoquant.runtime.engine import ENGINES, engine_report, use_engine

__all__ = ["ENGINES", "engine_report", "use_engine"]

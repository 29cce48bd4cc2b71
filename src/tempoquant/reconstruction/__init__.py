"""Rounding weights so that outputs stay: temporal layers by themselves, other units in order of execution."""

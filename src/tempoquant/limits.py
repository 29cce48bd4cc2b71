"""Bounds on numbers from outside: a damaged or mistyped one ends in an error, not in a full memory."""

MOST = 10_000_000
"""Of anything that is counted: samples, steps, rows."""
LONGEST_SIDE = 16_384
"""Of a sample, latent or not."""
MOST_TRAIN_TIMESTEPS = 100_000
"""Of a scheduler."""

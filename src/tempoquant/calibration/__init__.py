"""Recording trajectories, and ranges of activations from the recording."""

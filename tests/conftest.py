"""Shared by all tests: one thread, so that many small tensors are not slowed by coordination."""

import torch

torch.set_num_threads(1)

"""A feature extractor that can be checked by eye."""

import torch


class Corners:
    """The four pixels of the upper left corner; spatially those of the lower right one; as logits, their sums."""

    name = "corners"
    digest = "c0" * 32
    preprocessing = "none"
    outputs = ("pooled", "spatial", "logits")

    def __init__(self):
        self.seen = 0

    def __call__(self, images):
        self.seen += len(images)
        first = images[:, 0, :2, :2].flatten(1).float()
        last = images[:, 0, -2:, -2:].flatten(1).float()
        return {"pooled": first, "spatial": last, "logits": (first + last) / 100}


def pictures(count, seed=0, low=0, high=256, channels=1, size=32):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, (count, size, size, channels), generator=draw).to(torch.uint8)

"""The per-channel range search (p = 2.4, 80 candidates) on the CIFAR-10 UNet's shapes, against a loop over channels.

    python benchmarks/range_search.py --json docs/results/range_search.json

Both search the same candidates; the loop is timed on a share of the channels and scaled up. Random weights: the time
does not depend on them.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from tempoquant.checkpoint.evidence import machine
from tempoquant.numerics import mse_range

SHARE = 100


def cifar_weights() -> list[Tensor]:
    """Weights (C_out, K) of every Linear and Conv2d of the public CIFAR-10 configuration, 35.7 M parameters."""
    torch.manual_seed(0)
    down = ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D")
    up = ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D")
    widths = (128, 256, 256, 256)
    kinds = {"down_block_types": down, "up_block_types": up, "block_out_channels": widths}
    rest = {"attention_head_dim": None, "norm_eps": 1e-6, "downsample_padding": 0}
    unet = UNet2DModel(32, 3, 3, flip_sin_to_cos=False, freq_shift=1, **kinds, **rest)
    layers = [m for m in unet.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return [layer.weight.detach().flatten(1) for layer in layers]


def loop(rows: Tensor, bits: int) -> Tensor:
    """The upper range ends by a plain loop over channels and candidates."""
    best = []
    for row in rows:
        low, high = row.min().clamp(max=0), row.max().clamp(min=0)
        scores = []
        for i in range(80):
            shrink = 1 - 0.01 * i
            scale = (high - low) * shrink / (2**bits - 1)
            zero = torch.round(-low * shrink / scale)
            q = torch.clamp(torch.round(row / scale) + zero, 0, 2**bits - 1)
            scores.append(((q - zero) * scale - row).abs().pow(2.4).mean())
        best.append(high * (1 - 0.01 * int(torch.stack(scores).argmin())))
    return torch.stack(best)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(2)
    weights = cifar_weights()
    start = time.perf_counter()
    found = [mse_range(weight, 4)[1] for weight in weights]
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    some = [loop(weight[::SHARE], 4) for weight in weights]
    share = sum(w[::SHARE].numel() for w in weights) / sum(w.numel() for w in weights)
    loop_seconds = (time.perf_counter() - start) / share
    agree = sum(int((f[::SHARE] == s).sum()) for f, s in zip(found, some, strict=True)) / sum(len(s) for s in some)
    result = {
        "command": "python benchmarks/range_search.py",
        "parameters": sum(w.numel() for w in weights),
        "bits": 4,
        "seconds": seconds,
        "loop_seconds_scaled": loop_seconds,
        "ratio": loop_seconds / seconds,
        "same_winner": agree,
        "channels_compared": sum(len(s) for s in some),
        "machine": machine(),
    }
    args.json.write_text(json.dumps(result, indent=1) + "\n")
    print(result)


if __name__ == "__main__":
    main()

"""Train the classifier whose features the Frechet distance of fashion32 uses, and print its test accuracy.

Example: python examples/train_features.py --out fashion32_features.safetensors
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import fashion_mnist
import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from tempoquant.errors import InputError, TempoquantError
from tempoquant.evaluation import SmallClassifier
from tempoquant.progress import Progress, RichProgress
from tempoquant.randomness import rng

BUNDLED = Path(__file__).parents[1] / "src" / "tempoquant" / "assets" / "fashion32_features.safetensors"
BATCH, LEARNING_RATE = 128, 4e-3


def batches(count: int, seed: int, epoch: int) -> Sequence[Tensor]:
    """The rows of an epoch's batches; the last, smaller one is left out."""
    order = torch.randperm(count, generator=rng("features", seed, epoch))
    return order[: count - count % BATCH].split(BATCH)


def augmented(samples: Tensor, random: torch.Generator) -> Tensor:
    """Half the pictures mirrored: clothing has no left and right."""
    mirrored = torch.rand(len(samples), generator=random) < 0.5
    return torch.where(mirrored.view(-1, 1, 1, 1), samples.flip(-1), samples)


def train(pictures: Tensor, classes: Tensor, epochs: int, seed: int, progress: Progress) -> SmallClassifier:
    """A classifier after ``epochs`` epochs of AdamW under a one-cycle learning rate."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SmallClassifier()
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=1e-2)
    steps = epochs * (len(pictures) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    with progress.stage("training the features", steps) as advance:
        for epoch in range(epochs):
            random = rng("mirrored", seed, epoch)
            for rows in batches(len(pictures), seed, epoch):
                logits = network(augmented(fashion_mnist.to_sample(pictures[rows]), random))
                loss = functional.cross_entropy(logits, classes[rows], label_smoothing=0.05)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                advance(1)
    return network.eval()


@torch.inference_mode()
def accuracy(network: SmallClassifier, pictures: Tensor, classes: Tensor) -> float:
    """The share of pictures whose class is found."""
    found = [network(fashion_mnist.to_sample(batch)).argmax(1) for batch in pictures.split(1000)]
    return (torch.cat(found) == classes).float().mean().item()


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line: 0 on success, 2 with one line on bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=BUNDLED, help="the safetensors file to write")
    parser.add_argument("--data", type=Path, default=fashion_mnist.FOLDER, help="folder of the idx.gz files")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    given = parser.parse_args(words)
    torch.set_num_threads(1)  # the same bytes on any number of cores
    try:
        if given.epochs < 1:
            raise InputError(f"--epochs {given.epochs}: at least 1")
        if given.out.exists() and not given.overwrite:
            raise InputError(f"{given.out} exists: choose another name or pass --overwrite")
        pictures, classes = fashion_mnist.images(given.data), fashion_mnist.labels(given.data)
        tests = fashion_mnist.images(given.data, "t10k"), fashion_mnist.labels(given.data, "t10k")
        network = train(pictures, classes, given.epochs, given.seed, RichProgress())
    except TempoquantError as error:
        print(f"train_features: {error}", file=sys.stderr)
        return 2
    given.out.write_bytes(save(network.state_dict()))  # save_file makes a file that only its owner can read
    print(f"{given.out.name}: test accuracy {accuracy(network, *tests):.4f}, {given.epochs} epochs, seed {given.seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Checkpoints of the papers' code bases: latent diffusion (CompVis), Stable Diffusion 1, and the DDPM of CIFAR-10."""

from tempoquant.pipelines.compvis.assemble import SUFFIXES, load_checkpoint

__all__ = ["SUFFIXES", "load_checkpoint"]

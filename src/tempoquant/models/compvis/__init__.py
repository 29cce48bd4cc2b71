"""Checkpoints of the papers' code bases: latent diffusion (CompVis), Stable Diffusion 1, and the DDPM of CIFAR-10."""

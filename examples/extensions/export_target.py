"""An export target: TorchScript, which LibTorch runs without Python."""

import torch

from tempoquant.exporting import ExportTarget, register_target


def write(graph, example, folder):
    """Trace the denoiser at example inputs of batch 2 into ``model.pt``."""
    torch.jit.save(torch.jit.trace(graph, example), folder / "model.pt")


def read(folder, options):
    """What computes the prediction from arrays by input name."""
    module = torch.jit.load(folder / "model.pt")

    def session(inputs):
        return module(*(torch.from_numpy(value) for value in inputs.values())).detach().numpy()

    return session


register_target("torchscript", ExportTarget(packages=("torch",), write=write, open=read))

"""Two processes with half a batch each do what one does with the whole."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tempoquant
from tempoquant.errors import InputError
from tempoquant.training import Rhythm
from tempoquant.training.processes import Processes
from training_models import bare_denoiser, images, thin

SCRIPT = """
import sys
from pathlib import Path

import torch

sys.path[:0] = {paths!r}
from training_models import bare_denoiser, images, thin
import tempoquant
from tempoquant.training import Rhythm

torch.set_num_threads(1)
tempoquant.train(bare_denoiser(), thin(), data=images(), out={out!r}, rhythm=Rhythm(log=1))
"""


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "training" / "log.jsonl").read_text().splitlines()]


def test_two_processes_train_as_one_with_the_doubled_batch(tmp_path):
    out = tmp_path / "two"
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    script = tmp_path / "run.py"
    script.write_text(SCRIPT.format(paths=paths, out=str(out)))
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    launch += ["--main_process_port", str(port), "--mixed_precision", "no", "--dynamo_backend", "no", str(script)]
    src = str(Path(tempoquant.__file__).parents[1])
    env = os.environ | {"PYTHONPATH": src, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(launch, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    tempoquant.train(bare_denoiser(), thin(), data=images(), out=tmp_path / "one", rhythm=Rhythm(log=1))
    assert len(losses(out)) == 6 and losses(out) == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    one, two = (load_file(f / "denoiser" / "diffusion_pytorch_model.safetensors") for f in (tmp_path / "one", out))
    for name in ("tempoquant.vectors", "tempoquant.interval_scale"):
        torch.testing.assert_close(one[name], two[name], atol=1e-4, rtol=1e-3)


def test_a_batch_is_shared_equally(monkeypatch):
    processes = Processes()
    assert processes.rows(6) == slice(0, 6) and processes.writes
    processes.count, processes.rank = 2, 1
    assert processes.rows(6) == slice(3, 6) and not processes.writes
    with pytest.raises(InputError, match="a batch of 5 cannot be shared equally by 2 processes"):
        processes.rows(5)

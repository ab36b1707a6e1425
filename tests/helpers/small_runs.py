"""Small runs of the presets: their settings, the weights they leave behind, and training on two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from lab2pix.config.schema import RunConfig
from lab2pix.recipes import load_config
from lab2pix.training import latest_checkpoint

SMALL = (
    *("data.size=[64,64]", "data.scenes.train_count=6", "data.scenes.val_count=5", "monitor.log_every=1"),
    *("generator.width=2", "generator.modulation_hidden=4", "generator.global_encoder.width=4"),
    *("generator.global_encoder.max_width=8", "discriminator.width=4", "discriminator.max_width=8"),
    *("train.batch_size=2", "train.steps=4", "checkpoint.every=2", "checkpoint.keep=9", "monitor.sample_every=3"),
    *("monitor.samples=2", "monitor.tensorboard=false"),
)
SMALL_V1 = ("segmenter.width=4", "segmenter.blocks=[1,1,1,1]")
NO_BACKBONE = ("discriminator.kind=patch", "loss.consistency=0")


def small(preset: str, *overrides: str) -> RunConfig:
    """Return a preset whose networks cost little."""
    return load_config(preset, [*SMALL, *(SMALL_V1 if preset.startswith("v1") else ()), *overrides])


def latest_weights(run: Path) -> dict[str, Tensor]:
    """Return all tensors of a run's latest checkpoint."""
    folder = latest_checkpoint(run)
    assert folder is not None
    return load_file(folder / "training.safetensors") | load_file(folder / "model.safetensors")


def train_on_two_processes(run: Path, preset: str, *overrides: str) -> None:
    """Train with torchrun, check that it ends well, and that its weights are finite."""
    words = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("--max-restarts", "1"),  # a process that dies while it ends, its work done, is started again and finds so
        *("-m", "lab2pix", "train", preset, *SMALL, *overrides, "--out", str(run), "--device", "cpu"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "run.json").read_text())["processes"] == 2
    assert all(tensor.isfinite().all() for tensor in latest_weights(run).values())

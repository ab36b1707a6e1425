"""Lab2Pix-V2 itself in the loop: drawn scenes, a real backbone, one process and two through torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lab2pix import load_config
from lab2pix.config import Config
from lab2pix.training import latest_checkpoint, train

SETTINGS = (
    *("data.size=[64,64]", "data.scenes.train_count=6", "data.scenes.val_count=2", "monitor.log_every=1"),
    *("generator.width=2", "generator.modulation_hidden=4", "generator.global_encoder.width=4"),
    *("generator.global_encoder.max_width=8", "discriminator.width=4", "discriminator.max_width=8"),
    *("train.batch_size=2", "train.steps=4", "checkpoint.every=2", "checkpoint.keep=9", "monitor.sample_every=2"),
    *("monitor.samples=2", "monitor.tensorboard=false"),
)


def small(*overrides: str) -> Config:
    return load_config("v2-small", [*SETTINGS, *overrides])


def final_weights(run: Path) -> dict[str, torch.Tensor]:
    folder = latest_checkpoint(run)
    assert folder is not None
    return load_file(folder / "training.safetensors") | load_file(folder / "model.safetensors")


@pytest.mark.parametrize(
    "overrides", [(), ("train.gradient_checkpointing=true", "train.accumulate=2")], ids=["plain", "frugal"]
)
def test_resume_is_bit_exact(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    config = small(*overrides)
    whole = train(config, tmp_path / "whole")
    assert set(whole.losses["generator"]) == {"adversarial", "perceptual", "feature_matching"}
    assert set(whole.losses["discriminator"]) == {"real", "fake", "blurred"}
    assert set(whole.scores) == {"l1", "perceptual"}
    train(small(*overrides, "train.max_minutes=1e-5"), tmp_path / "parts")
    resumed = train(config, tmp_path / "parts", resume=True)
    assert resumed.losses == whole.losses
    mine, theirs = final_weights(tmp_path / "whole"), final_weights(tmp_path / "parts")
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []


def test_torchrun_on_two_processes(tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "lab2pix",
        "train",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*words, "v2-small", *SETTINGS, "--out", str(run), "--device", "cpu"],
        capture_output=True,
        text=True,
        timeout=240,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((run / "run.json").read_text())
    assert record["processes"] == 2
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "losses" in line] == [1, 2, 3, 4]
    assert all(tensor.isfinite().all() for tensor in final_weights(run).values())

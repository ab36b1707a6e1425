"""Training of Lab2Pix-V1: unpaired scenes and sketches, in one process and in two."""

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
from lab2pix.config.schema import RunConfig
from lab2pix.training import latest_checkpoint, train

SETTINGS = (
    *("data.size=[64,64]", "data.scenes.train_count=6", "data.scenes.val_count=2", "monitor.log_every=1"),
    *("generator.width=2", "generator.modulation_hidden=4", "generator.global_encoder.width=4"),
    *("generator.global_encoder.max_width=8", "discriminator.width=4", "discriminator.max_width=8"),
    *("segmenter.width=4", "segmenter.blocks=[1,1,1,1]", "train.batch_size=2", "train.steps=3", "checkpoint.every=2"),
    *("checkpoint.keep=9", "monitor.sample_every=3", "monitor.samples=2", "monitor.tensorboard=false"),
)
NO_BACKBONE = ("discriminator.kind=patch", "loss.consistency=0")


def small(preset: str, *overrides: str) -> RunConfig:
    return load_config(preset, [*SETTINGS, *overrides])


def final_weights(run: Path) -> dict[str, torch.Tensor]:
    folder = latest_checkpoint(run)
    assert folder is not None
    return load_file(folder / "training.safetensors") | load_file(folder / "model.safetensors")


def steps_of(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "losses" in line]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "overrides"),
    [
        ("v1-small", ()),
        ("v1-small-sketch", ("train.accumulate=2", "train.batch_size=4", *NO_BACKBONE)),
    ],
    ids=["semantic", "sketch-in-two-parts"],
)
def test_v1_resume_is_bit_exact(tmp_path: Path, preset: str, overrides: tuple[str, ...]) -> None:
    config = small(preset, *overrides)
    whole = train(config, tmp_path / "whole", device="cpu")
    terms = {"adversarial", "cycle", "diversity"} | ({"consistency"} if config.loss.consistency else set())
    assert set(whole.losses["generator"]) == terms
    assert set(whole.losses["discriminator"]) == {"real", "fake", "sharpness"}
    assert set(whole.scores) == {"cycle", "seg_error"}

    stopped = train(small(preset, *overrides, "train.max_minutes=1e-5"), tmp_path / "parts", device="cpu")
    assert 0 < stopped.step < 3
    resumed = train(config, tmp_path / "parts", device="cpu", resume=True)
    assert resumed.step == 3
    assert resumed.losses == whole.losses
    mine, theirs = final_weights(tmp_path / "whole"), final_weights(tmp_path / "parts")
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []
    for player in ("generator", "segmenters", "discriminator"):
        assert any(player in name for name in mine), player

    sharpness = [line["losses"]["discriminator"]["sharpness"] for line in steps_of(tmp_path / "parts")]
    assert (sharpness[0] == 0) == (preset == "v1-small")  # λ2 rises from 0, but for sketches
    assert all(value > 0 for value in sharpness[1:])


@pytest.mark.slow
def test_sharpness_weight_is_complete_at_the_last_step(tmp_path: Path) -> None:
    """The loop says how far the run is: λ2 is 0, 1/2, 1 at the three steps of a run."""
    found = {}
    for schedule in ("rising", "constant"):
        config = small("v1-small", *NO_BACKBONE, f"loss.sharpness_schedule={schedule}")
        train(config, tmp_path / schedule, device="cpu")
        found[schedule] = [line["losses"]["discriminator"]["sharpness"] for line in steps_of(tmp_path / schedule)]
    shares = [rising / constant for rising, constant in zip(found["rising"], found["constant"], strict=True)]
    assert shares == pytest.approx([0, 0.5, 1], abs=0.02)  # the discriminators have hardly learnt


@pytest.mark.slow
def test_v1_trains_with_torchrun_on_two_processes(tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("--max-restarts", "1"),  # a process that dies while it ends, its work done, is started again and finds so
        *("-m", "lab2pix", "train", "v1-small", *SETTINGS, *NO_BACKBONE, "train.batch_size=4", "train.steps=2"),
        *("--out", str(run), "--device", "cpu"),
    ]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "run.json").read_text())["processes"] == 2
    assert [line["step"] for line in steps_of(run)] == [1, 2]
    assert all(tensor.isfinite().all() for tensor in final_weights(run).values())

"""Training of Lab2Pix-V2: scenes, a real backbone, in one process and in two."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lab2pix import Synthesizer, load_config
from lab2pix.config.schema import RunConfig
from lab2pix.errors import CheckpointError
from lab2pix.training import latest_checkpoint, train

SETTINGS = (
    *("data.size=[64,64]", "data.scenes.train_count=6", "data.scenes.val_count=2", "monitor.log_every=1"),
    *("generator.width=2", "generator.modulation_hidden=4", "generator.global_encoder.width=4"),
    *("generator.global_encoder.max_width=8", "discriminator.width=4", "discriminator.max_width=8"),
    *("train.batch_size=2", "train.steps=4", "checkpoint.every=2", "checkpoint.keep=9", "monitor.sample_every=2"),
    *("monitor.samples=2", "monitor.tensorboard=false", "loss.cycle=0"),
)


def small(*overrides: str) -> RunConfig:
    return load_config("v2-small", [*SETTINGS, *overrides])


def final_weights(run: Path) -> dict[str, torch.Tensor]:
    folder = latest_checkpoint(run)
    assert folder is not None
    return load_file(folder / "training.safetensors") | load_file(folder / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        *((), ("train.gradient_checkpointing=true", "train.accumulate=2")),
        ("optimizer.discriminator_interval=2", "loss.cycle=10"),
    ],
    ids=["plain", "frugal", "turns"],  # of the last, the first part ends before the discriminator's first turn
)
def test_v2_resume_is_bit_exact(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    config = small(*overrides)
    whole = train(config, tmp_path / "whole")
    read = {"cycle", "seg_loss_real"} if config.loss.cycle else set()
    assert set(whole.losses["generator"]) == {"adversarial", "perceptual", "feature_matching"} | read
    assert set(whole.losses["discriminator"]) == {"real", "fake", "sharpness"}
    assert set(whole.scores) == {"l1", "perceptual"}
    train(small(*overrides, "train.max_minutes=1e-5"), tmp_path / "parts")
    resumed = train(config, tmp_path / "parts", resume=True)
    assert resumed.losses == whole.losses
    mine, theirs = final_weights(tmp_path / "whole"), final_weights(tmp_path / "parts")
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []


@pytest.mark.slow
@pytest.mark.parametrize("cycle", ["loss.cycle=0", "loss.cycle=10"])
def test_v2_trains_with_torchrun_on_two_processes(tmp_path: Path, cycle: str) -> None:
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
        [*words, "v2-small", *SETTINGS, cycle, "--out", str(run), "--device", "cpu"],
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


def test_init_from_starts_from_another_runs_weights(tmp_path: Path) -> None:
    train(small("train.steps=1", "train.ema_decay=0.5"), tmp_path / "first")
    theirs = final_weights(tmp_path / "first")
    Synthesizer.load(tmp_path / "first").save(tmp_path / "exported")
    learnt = [name for name in theirs if name.endswith(("weight", "bias", "original"))]
    average = {name: theirs[name.removeprefix("generator.")] for name in learnt}

    def start(source: str) -> tuple[list[str], list[str]]:
        """Return which weights differ after a step that changes nothing, and what the log says of the start."""
        still = ("optimizer.generator_lr=1e-30", "optimizer.discriminator_lr=1e-30", "train.steps=1", "seed=1")
        run = tmp_path / f"from-{source}"
        train(small(*still, "train.ema_decay=0.5", f"train.init_from={tmp_path / source}"), run)
        mine = final_weights(run)
        notes = [json.loads(line).get("note", "") for line in (run / "log.jsonl").read_text().splitlines()]
        return (
            [name for name in learnt if not torch.allclose(mine[name], average[name])],
            [note for note in notes if "start from" in note],
        )

    changed, notes = start("first")
    assert changed == []
    assert [note.split(":")[0] for note in notes] == ["generator", "discriminator"]
    changed, notes = start("exported")
    assert changed
    assert all(name.startswith("discriminator.") for name in changed)
    assert notes[1].startswith("discriminator: 0 of ")


def test_init_from_a_run_without_segmentation_head(tmp_path: Path) -> None:
    train(small("train.steps=1", "train.ema_decay=null"), tmp_path / "first")
    still = (
        "optimizer.generator_lr=1e-30",
        "optimizer.discriminator_lr=1e-30",
        "train.steps=1",
        "train.ema_decay=null",
    )
    train(small(*still, "loss.cycle=10", f"train.init_from={tmp_path / 'first'}"), tmp_path / "second")
    before, after = final_weights(tmp_path / "first"), final_weights(tmp_path / "second")
    weights = [name for name in before if name.startswith("generator.") and name.endswith("original")]
    assert weights
    for name in weights:
        torch.testing.assert_close(after[name], before[name])


def test_init_from_a_generator_with_fewer_upsampling_blocks(tmp_path: Path) -> None:
    train(small("train.steps=1", "generator.num_upsamples=6"), tmp_path / "six")
    grown = small(
        "train.steps=2",
        "generator.num_upsamples=7",
        "data.size=[128,128]",
        "train.max_minutes=1e-5",
        f"train.init_from={tmp_path / 'six'}",
    )
    train(grown, tmp_path / "seven")
    before, after = final_weights(tmp_path / "six"), final_weights(tmp_path / "seven")
    kept = [name for name, tensor in before.items() if name in after and after[name].shape == tensor.shape]
    assert {name for name in before if name.startswith("blocks.")} <= set(kept)
    assert {name for name in after if name.startswith("blocks.7.")}.isdisjoint(kept)
    shutil.rmtree(tmp_path / "six")  # a run that has begun needs its source no more
    assert train(grown.model_copy(), tmp_path / "seven", resume=True).step == 2


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("nowhere", "there is no"),
        ("empty", "there is no"),
        ("broken", "cannot be read"),
        ("foreign", "shares no weight"),
    ],
)
def test_init_from_refuses_unsuitable_weights(tmp_path: Path, source: str, words: str) -> None:
    for name in ("empty", "broken", "foreign"):
        (tmp_path / name).mkdir()
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"no weights")
    save_file({"other": torch.zeros(1)}, tmp_path / "foreign" / "model.safetensors")
    with pytest.raises(CheckpointError, match=words) as caught:
        train(small(f"train.init_from={tmp_path / source}"), tmp_path / "run")
    assert "train.init_from" in str(caught.value)
    assert not (tmp_path / "run").exists()

"""Training of Lab2Pix-V1 and V2 on scenes and sketches: exact resume, two processes, and a start from other weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lab2pix import Synthesizer
from lab2pix.errors import CheckpointError
from lab2pix.training import train
from tests.helpers.small_runs import NO_BACKBONE, SMALL_V1, latest_weights, small, train_on_two_processes
from tests.helpers.toy import lines

STILL = ("optimizer.generator_lr=1e-30", "optimizer.discriminator_lr=1e-30", "train.steps=1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "overrides"),
    [
        ("v1-small", ()),
        ("v1-small-sketch", ("train.accumulate=2", "train.batch_size=4", *NO_BACKBONE)),
        ("v2-small", ("loss.cycle=0",)),
        pytest.param(
            "v2-small",
            ("loss.cycle=0", "train.gradient_checkpointing=true", "train.accumulate=2"),
            marks=pytest.mark.xslow,
        ),
        pytest.param("v2-small", ("optimizer.discriminator_interval=2",), marks=pytest.mark.xslow),
        ("v2-small", ("augment.shift=3", "augment.discriminator=[color,translation,cutout]")),
    ],
    ids=["v1", "v1-sketch-in-two-parts", "v2", "v2-frugal", "v2-turns", "v2-augmented"],
)
def test_resume_is_bit_exact(tmp_path: Path, preset: str, overrides: tuple[str, ...]) -> None:
    """Of the last case, the first part ends before the discriminator's first turn."""
    config = small(preset, *overrides)
    whole = train(config, tmp_path / "whole", device="cpu")
    if preset == "v2-small":
        terms = {"adversarial", "perceptual", "feature_matching"}
        terms |= {"cycle", "cycle_real"} if config.loss.cycle else set()
        scores = {"l1", "perceptual", "checkerboard"}
    else:
        terms = {"adversarial", "cycle", "diversity"} | ({"consistency"} if config.loss.consistency else set())
        scores = {"cycle", "seg_error", "checkerboard"}
    assert set(whole.losses["generator"]) == terms
    assert set(whole.losses["discriminator"]) == {"real", "fake", "sharpness"}
    assert set(whole.scores) == scores

    stopped = train(small(preset, *overrides, "train.max_minutes=1e-5"), tmp_path / "parts", device="cpu")
    assert 0 < stopped.step < 4
    resumed = train(config, tmp_path / "parts", device="cpu", resume=True)
    assert resumed.step == 4
    assert resumed.losses == whole.losses
    mine, theirs = latest_weights(tmp_path / "whole"), latest_weights(tmp_path / "parts")
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []
    for network in ("generator", "discriminator", *(() if preset == "v2-small" else ("segmenters",))):
        assert any(network in name for name in mine), network
    if preset != "v2-small":
        sharpness = [line["losses"]["discriminator"]["sharpness"] for line in lines(tmp_path / "parts")]
        assert (sharpness[0] == 0) == (preset == "v1-small")  # λ2 rises from 0, but for sketches
        assert all(value > 0 for value in sharpness[1:])


@pytest.mark.slow
def test_sharpness_weight_is_complete_at_the_last_step(tmp_path: Path) -> None:
    """The loop says how far the run is: λ2 is 0, 1/2, 1 at the three steps of a run."""
    found = {}
    for schedule in ("rising", "constant"):
        config = small("v1-small", *NO_BACKBONE, "train.steps=3", f"loss.sharpness_schedule={schedule}")
        train(config, tmp_path / schedule, device="cpu")
        found[schedule] = [line["losses"]["discriminator"]["sharpness"] for line in lines(tmp_path / schedule)]
    shares = [rising / constant for rising, constant in zip(found["rising"], found["constant"], strict=True)]
    assert shares == pytest.approx([0, 0.5, 1], abs=0.02)  # the discriminators have hardly learnt


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "overrides"),
    [
        ("v1-small", (*SMALL_V1, *NO_BACKBONE, "train.batch_size=4")),
        ("v2-small", ("loss.cycle=0",)),
        pytest.param("v2-small", ("loss.cycle=10",), marks=pytest.mark.xslow),
    ],
    ids=["v1", "v2", "v2-cycle"],
)
def test_torchrun_trains_on_two_processes(tmp_path: Path, preset: str, overrides: tuple[str, ...]) -> None:
    train_on_two_processes(tmp_path / "run", preset, *overrides)
    assert [line["step"] for line in lines(tmp_path / "run")] == [1, 2, 3, 4]


@pytest.mark.slow
def test_init_from_starts_from_another_runs_weights(tmp_path: Path) -> None:
    average = ("train.ema_decay=0.5", "loss.cycle=0")
    train(small("v2-small", "train.steps=1", *average), tmp_path / "first")
    theirs = latest_weights(tmp_path / "first")
    Synthesizer.load(tmp_path / "first").save(tmp_path / "exported")
    learnt = [name for name in theirs if name.endswith(("weight", "bias", "original"))]
    expected = {name: theirs[name.removeprefix("generator.")] for name in learnt}

    def start(source: str) -> tuple[list[str], list[str]]:
        """Return which weights differ after a step that changes nothing, and what the log says of the start."""
        run = tmp_path / f"from-{source}"
        train(small("v2-small", *STILL, *average, "seed=1", f"train.init_from={tmp_path / source}"), run)
        mine = latest_weights(run)
        notes = [line["note"] for line in lines(run, "note")]
        return (
            [name for name in learnt if not torch.allclose(mine[name], expected[name])],
            [note for note in notes if "start from" in note],
        )

    changed, notes = start("first")
    assert changed == []
    assert [note.split(":")[0] for note in notes] == ["generator", "discriminator"]
    changed, notes = start("exported")
    assert changed
    assert all(name.startswith("discriminator.") for name in changed)
    assert notes[1].startswith("discriminator: 0 of ")


@pytest.mark.slow
def test_init_from_a_run_without_segmentation_head(tmp_path: Path) -> None:
    plain = "train.ema_decay=null"
    train(small("v2-small", "train.steps=1", plain, "loss.cycle=0"), tmp_path / "first")
    train(small("v2-small", *STILL, plain, f"train.init_from={tmp_path / 'first'}"), tmp_path / "second")
    before, after = latest_weights(tmp_path / "first"), latest_weights(tmp_path / "second")
    weights = [name for name in before if name.startswith("generator.") and name.endswith("original")]
    assert weights
    for name in weights:
        torch.testing.assert_close(after[name], before[name])


@pytest.mark.slow
def test_init_from_a_generator_with_fewer_upsampling_blocks(tmp_path: Path) -> None:
    train(small("v2-small", "train.steps=1", "generator.num_upsamples=6", "loss.cycle=0"), tmp_path / "six")
    larger = ("generator.num_upsamples=7", "data.size=[128,128]", "loss.cycle=0", "train.max_minutes=1e-5")
    grown = small("v2-small", "train.steps=2", *larger, f"train.init_from={tmp_path / 'six'}")
    train(grown, tmp_path / "seven")
    before, after = latest_weights(tmp_path / "six"), latest_weights(tmp_path / "seven")
    kept = [name for name, tensor in before.items() if name in after and after[name].shape == tensor.shape]
    assert {name for name in before if name.startswith("blocks.")} <= set(kept)
    assert {name for name in after if name.startswith("blocks.7.")}.isdisjoint(kept)
    shutil.rmtree(tmp_path / "six")  # a run that has begun needs its source no more
    assert train(grown.model_copy(), tmp_path / "seven", resume=True).step == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "words"),
    [
        *(("nowhere", "there is no"), ("empty", "there is no")),
        *(("broken", "cannot be read"), ("foreign", "shares no weight")),
    ],
)
def test_init_from_refuses_unsuitable_weights(tmp_path: Path, source: str, words: str) -> None:
    for name in ("empty", "broken", "foreign"):
        (tmp_path / name).mkdir()
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"no weights")
    save_file({"other": torch.zeros(1)}, tmp_path / "foreign" / "model.safetensors")
    with pytest.raises(CheckpointError, match=words) as caught:
        train(small("v2-small", "loss.cycle=0", f"train.init_from={tmp_path / source}"), tmp_path / "run")
    assert "train.init_from" in str(caught.value)
    assert not (tmp_path / "run").exists()

"""The rules of `lab2pix fit`, as a table, and their arithmetic."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lab2pix.fit.rules import FEW_PHOTOS, Facts, Start, apply, duration, preset, smaller, steps_in
from lab2pix.recipes import load_config

HOUR = Facts(
    paired=True, photos=400, height=256, width=256, classes=("sky", "tree", "water"), rare=(), device="cpu", cores=2,
    bfloat16=True, seconds=3600, step_seconds=0.5,
)  # fmt: skip
PHOTO_MODEL = Start("photos", "photos/model.safetensors", ("sky", "tree", "road"), {"generator.width": 24}, True)


def chosen(facts: Facts, **given: Any) -> dict[str, Any]:
    keys = {key.replace("__", "."): value for key, value in given.items()}
    return keys | {choice.key: choice.value for choice in apply(facts, keys)}


@pytest.mark.parametrize(
    ("changes", "key", "value"),
    [
        ({}, "data.size", [64, 64]),
        ({"step_seconds": 0.3}, "data.size", [128, 128]),
        ({"step_seconds": 0.3}, "generator.num_upsamples", 6),
        ({"step_seconds": 0.05}, "data.size", [256, 256]),
        ({"step_seconds": 0.05, "height": 100, "width": 180}, "data.size", [64, 128]),
        ({"step_seconds": 0.05, "height": 400, "width": 300}, "data.size", [384, 256]),
        ({"step_seconds": 0.03, "height": 3000, "width": 300}, "data.size", [512, 256]),
        ({"step_seconds": float("inf")}, "data.size", [64, 64]),
        ({"step_seconds": 0.01, "height": 64, "width": 64}, "generator.width", 64),
        ({"step_seconds": 0.05, "height": 64, "width": 64}, "generator.width", 32),
        ({}, "generator.width", 16),
        ({"paired": False}, "generator.width", 8),
        ({}, "discriminator.width", 16),
        ({}, "train.precision", "bf16"),
        ({"bfloat16": False}, "train.precision", "fp32"),
        ({}, "train.batch_size", 4),
        ({"device": "cuda"}, "train.batch_size", 8),
        ({}, "data.workers", 0),
        ({"device": "cuda", "cores": 2}, "data.workers", 1),
        ({"device": "cuda", "cores": 16}, "data.workers", 4),
        ({}, "data.flip", True),
        ({}, "data.repeat_threshold", 0.0),
        ({"rare": ("boat",)}, "data.repeat_threshold", 0.1),
        ({}, "augment.discriminator", ["color", "translation", "cutout"]),
        ({"photos": FEW_PHOTOS}, "augment.discriminator", []),
        ({"starts": (PHOTO_MODEL,)}, "train.init_from", "photos/model.safetensors"),
        ({"starts": (PHOTO_MODEL,)}, "generator.width", 24),
    ],
)
def test_rules_of_fit(changes: dict[str, Any], key: str, value: Any) -> None:
    assert chosen(replace(HOUR, **changes))[key] == value


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"paired": False}, "augment.discriminator"),
        ({"starts": (PHOTO_MODEL,), "classes": ("sky", "lava", "smoke")}, "train.init_from"),
        ({"starts": (PHOTO_MODEL,), "paired": False}, "train.init_from"),
    ],
)
def test_rules_that_do_not_apply(changes: dict[str, Any], key: str) -> None:
    assert key not in chosen(replace(HOUR, **changes))


def test_settings_of_the_user_replace_those_of_rules_and_count_for_later_rules() -> None:
    found = chosen(HOUR, data__size=[256, 512], generator__width=20)
    assert (found["data.size"], found["generator.num_upsamples"]) == ([256, 512], 7)
    assert (found["generator.width"], found["discriminator.width"]) == (20, 20)


def test_every_choice_has_a_reason_in_one_clause() -> None:
    for facts in (HOUR, replace(HOUR, rare=("a", "b"), device="cuda"), replace(HOUR, starts=(PHOTO_MODEL,))):
        for choice in apply(facts, {}):
            assert choice.reason
            assert "\n" not in choice.reason
            assert not choice.reason.endswith(".")


def test_cost_of_a_step_grows_with_pixels_and_batch() -> None:
    given = {"train.batch_size": 4}
    assert steps_in(HOUR, given, (64, 64)) == pytest.approx(0.9 * 3600 / 0.5)
    assert steps_in(HOUR, given, (128, 128)) == pytest.approx(0.9 * 3600 / 2)
    assert steps_in(HOUR, {"train.batch_size": 8}, (64, 64)) == pytest.approx(0.9 * 3600 / 1)


@pytest.mark.parametrize(
    ("seconds", "step", "steps", "every"),
    [(3600, 0.5, 6480, 540), (180, 0.5, 324, 120), (60, 30, 1, 1)],
)
def test_duration_fills_the_time_and_spaces_checkpoints(seconds: float, step: float, steps: int, every: int) -> None:
    found = {choice.key: choice.value for choice in duration(seconds, step)}
    assert found == {"train.steps": steps, "checkpoint.every": every, "monitor.sample_every": every}


def test_less_memory_lowers_the_batch_and_then_the_size() -> None:
    settings: dict[str, Any] = {"train.batch_size": 8, "data.size": [256, 384]}
    changes = []
    while (choice := smaller(settings, (), 3 * 2**30, 2**30)) is not None:
        settings[choice.key] = choice.value
        changes.append((choice.key, choice.value))
    assert changes == [
        *(("train.batch_size", 4), ("train.batch_size", 2)),
        *(("data.size", [128, 192]), ("data.size", [64, 96])),
    ]
    assert smaller({"train.batch_size": 8, "data.size": [256, 256]}, ("data.size", "train.batch_size"), 2, 1) is None


@pytest.mark.parametrize("paired", [True, False])
def test_choices_are_settings_of_their_preset(paired: bool) -> None:
    choice = preset(paired)
    values = chosen(replace(HOUR, paired=paired))
    config = load_config(choice.value, {"data.format": "folder", "data.root": "x", **values})
    assert list(config.data.size) == values["data.size"]

"""Weights of classes are matched by name between label spaces."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lab2pix.errors import ConfigError
from lab2pix.labels.space import LabelClass, LabelSpace
from lab2pix.methods import get_method
from lab2pix.testing import check_method
from lab2pix.training.checkpoint import write_checkpoint
from lab2pix.training.class_weights import ClassAxis, ClassMatch
from lab2pix.training.init_from import init_from
from lab2pix.training.state import TrainingState, build_state
from tests.methods.test_contract import narrow


def space(*classes: str, unknown: int | None = None) -> LabelSpace:
    return LabelSpace.from_dict({"name": "mine", "classes": list(classes), "unknown_value": unknown})


def test_channels_of_classes_are_placed_by_name() -> None:
    match = ClassMatch(space("a", "b", "c", unknown=9), space("c", "d", "a", "e", unknown=9), {"e": "b"})
    # Two other channels, the classes, unknown, and another channel.
    source = torch.arange(7.0).view(1, 7, 1, 1)
    like = torch.zeros(1, 8, 1, 1)
    placed = match.place(source, like, [ClassAxis(1, 1, True, 2)], "conv.weight")
    assert placed is not None
    assert placed.flatten().tolist() == [0, 1, 4, 3, 2, 3, 5, 6]  # d: the mean of a, b and c
    assert match.new() == ["d"]
    # A class of two elements, without a place for unknown, in a singular vector.
    vector = match.place(torch.arange(6.0), torch.zeros(8), [ClassAxis(0, 2, False, 0)], "conv.weight_v")
    assert vector is not None
    torch.testing.assert_close(vector, torch.tensor([4.0, 5, 2, 3, 0, 1, 2, 3]) / 68**0.5)
    assert match.place(source, torch.zeros(1, 9, 1, 1), [ClassAxis(1, 1, True, 2)], "conv.weight") is None


def test_contract_detects_a_wrong_offset_of_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    method = get_method("oasis")
    monkeypatch.setattr(method, "class_offset", lambda self, network, tensor: 0)
    with pytest.raises(AssertionError, match="class_offset"):
        check_method(method, narrow("oasis"))


def start(tmp_path: Path, label_space: LabelSpace, **settings: object) -> tuple[TrainingState, list[str]]:
    """Return the state of a run that starts from OASIS on `scenes`, and what its log says."""
    first = narrow("oasis")
    before = build_state(get_method("oasis")(first, LabelSpace.load("scenes"), pretrained=False), torch.device("cpu"))
    write_checkpoint(tmp_path / "first", before)
    config = first.model_copy(
        update={"train": first.train.model_copy(update={"init_from": str(tmp_path / "first"), **settings})}
    )
    state = build_state(get_method("oasis")(config, label_space, pretrained=False), torch.device("cpu"))
    return state, init_from(state, config.train.init_from)


def test_a_run_starts_from_one_with_other_classes(tmp_path: Path) -> None:
    scenes = LabelSpace.load("scenes")
    mine = replace(scenes, classes=(LabelClass("lava", (9, 9, 9)), *scenes.classes[::-1]), evaluation=None)
    state, notes = start(tmp_path, mine)
    assert notes[-1].startswith(f"classes: {scenes.num_classes} of {mine.num_classes} start from")
    assert notes[-1].endswith("new, from the mean of all: lava")
    trained = load_file(next((tmp_path / "first").rglob("training.safetensors")))
    generator, discriminator = state.method.networks["generator"], state.method.networks["discriminator"]
    noise = state.method.config.generator.noise_dim
    name = "fc.weight"
    old, new = trained[f"generator.{name}"], generator.state_dict()[name]
    assert torch.equal(new[:, :noise], old[:, :noise])
    assert torch.equal(
        new[:, noise + 1 : noise + 1 + scenes.num_classes], old[:, noise : noise + scenes.num_classes].flip(1)
    )
    torch.testing.assert_close(new[:, noise], old[:, noise : noise + scenes.num_classes].mean(1))
    name = "head.bias"
    old, new = trained[f"discriminator.{name}"], discriminator.state_dict()[name]
    assert torch.equal(new[0], old[0])  # fake
    assert torch.equal(new[2 : 2 + scenes.num_classes], old[1 : 1 + scenes.num_classes].flip(0))


def test_classes_to_start_from_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no class 'rok'; did you mean 'rock'"):
        start(tmp_path, space("lava"), init_classes={"lava": "rok"})
    with pytest.raises(ConfigError, match="no class 'lav'; did you mean 'lava'"):
        start(tmp_path, space("lava"), init_classes={"lav": "rock"})

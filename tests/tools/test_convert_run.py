"""Conversion of runs of version 0.1.0."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lab2pix import Synthesizer
from lab2pix.errors import CheckpointError, OutputError
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import build_method, read_config
from tools.convert_run import convert, convert_config

SMALL = {"width": 2, "modulation_hidden": 2, "global_encoder": {"width": 2, "max_width": 4}, "noise_dim": 4}
OLD_CONFIGS: dict[str, dict[str, Any]] = {
    "lab2pix-v1": {
        "method": "lab2pix-v1",
        "data": {"format": "scenes", "label_space": "scenes", "size": [128, 256], "unpaired": True},
        "generator": {**SMALL, "doublings": 7, "start": "noise", "encoder": "semantic", "progressive": True},
        "discriminator": {"scales": 3, "width": 2, "max_width": 4},
        "segmenter": {"width": 4, "blocks": [1, 1, 1, 1]},
        "loss": {"cycle": 10.0, "perceptual": 0.0, "nearest_of": 1, "blur": "average", "adversarial": "vanilla"},
    },
    "lab2pix-v2": {
        "method": "lab2pix-v2",
        "data": {"format": "scenes", "label_space": "scenes", "size": [64, 64], "unpaired": False},
        "generator": {**SMALL, "doublings": 5, "start": "noise", "encoder": "semantic"},
        "discriminator": {"scales": 1, "width": 2, "max_width": 4},
        "segmenter": {"width": 32, "blocks": [3, 4, 6, 3]},
        "backbone": {"discriminator": "efficientnet-lite0", "perceptual": "efficientnet-lite0", "normalize": True},
        "loss": {"cycle": 30.0, "consistency": 0.0, "nearest_of": 6, "adversarial": "hinge"},
        "optimizer": {"discriminator_every": 2},
        "train": {"init_from": "runs/before", "batch_size": 4},
    },
}
OLD_NAMES = {
    "generator.": "generator.generator.",
    "segmenters.": "generator.segmenters.",
    "segmentation_head.": "generator.reader.",
}


def write_old_run(folder: Path, method: str) -> dict[str, torch.Tensor]:
    """Write what a run of version 0.1.0 leaves, and return the tensors under their present names."""
    config = read_config(convert_config(OLD_CONFIGS[method]))
    space = LabelSpace.load("scenes")
    networks = build_method(config, space, pretrained=False).networks
    tensors = {f"{key}.{name}": value for key, net in networks.items() for name, value in net.state_dict().items()}
    old = {}
    for name, tensor in tensors.items():
        prefix = next((new for new in OLD_NAMES if name.startswith(new)), "")
        renamed = OLD_NAMES.get(prefix, "") + name.removeprefix(prefix)
        old[renamed.replace(".fusion.", ".fuse.").replace(".stages.", ".deeper.")] = tensor.contiguous()
    checkpoint = folder / "checkpoints" / "step-00000002"
    checkpoint.mkdir(parents=True)
    save_file(old, checkpoint / "training.safetensors")
    generator = {name.removeprefix("generator."): t for name, t in tensors.items() if name.startswith("generator.")}
    save_file({name: tensor.contiguous() for name, tensor in generator.items()}, checkpoint / "model.safetensors")
    about = {"format": "lab2pix-1", "config": OLD_CONFIGS[method], "label_space": space.to_dict(), "step": 2}
    (checkpoint / "config.json").write_text(json.dumps(about))
    return tensors


@pytest.mark.slow
@pytest.mark.parametrize("method", OLD_CONFIGS)
def test_convert_run_keeps_every_network(method: str, tmp_path: Path) -> None:
    tensors = write_old_run(tmp_path / "old", method)
    convert(tmp_path / "old", tmp_path / "new")
    found = load_file(tmp_path / "new" / "training.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    synthesizer = Synthesizer.load(tmp_path / "new", device="cpu")
    assert synthesizer.generator.state_dict().keys() == load_file(tmp_path / "new" / "model.safetensors").keys()
    assert synthesizer.config.loss.variant == "paper"  # type: ignore[attr-defined]


def test_convert_run_renames_settings() -> None:
    config = convert_config(OLD_CONFIGS["lab2pix-v2"])
    assert config["data"]["format"] == "scenes"
    assert (config["generator"]["num_upsamples"], config["generator"]["input"]) == (5, "noise")
    assert config["loss"]["imle_candidates"] == 6
    assert config["optimizer"]["discriminator_interval"] == 2
    assert config["train"]["init_from"] == "runs/before"
    official = {**OLD_CONFIGS["lab2pix-v2"], "loss": {"adversarial": "hinge", "discriminator_halved": False}}
    assert convert_config(official)["loss"]["variant"] == "official"


@pytest.mark.slow
def test_convert_run_refuses_other_formats_and_full_folders(tmp_path: Path) -> None:
    write_old_run(tmp_path / "old", "lab2pix-v2")
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        convert(tmp_path, tmp_path / "new")
    convert(tmp_path / "old", tmp_path / "new")
    with pytest.raises(CheckpointError, match="has format 'lab2pix-2'"):
        convert(tmp_path / "new", tmp_path / "newer")
    with pytest.raises(OutputError, match="is not empty"):
        convert(tmp_path / "old", tmp_path / "new")

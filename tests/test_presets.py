"""Presets: they load, have the published numbers, and ablations differ in one component per step."""

from __future__ import annotations

from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from lab2pix.methods import get_method
from lab2pix.recipes import load_config, preset_descriptions, preset_names, require_data_root, to_yaml
from tests.helpers.configs import difference


@pytest.mark.slow
@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_under_its_own_name_and_survives_yaml(name: str, tmp_path: Path) -> None:
    config = load_config(name)
    assert config.name == name
    file = tmp_path / "copy.yaml"
    file.write_text(to_yaml(config), encoding="utf-8")
    assert load_config(file) == config
    assert preset_descriptions()[name].endswith(".")


COLUMNS = {
    "v2": "data.size data.resize generator.num_upsamples discriminator.scales train.batch_size train.epochs "
    "data.instance_edges",
    "v1": "data.size data.resize generator.num_upsamples generator.encoder train.batch_size train.epochs "
    "optimizer.decay_fraction loss.foreground_rate loss.sharpness_schedule",
}
RECIPES: dict[str, tuple[Any, ...]] = {
    "v2-cityscapes": ((256, 512), None, 6, 2, 20, 200, True),
    "v2-cityscapes-h": ((512, 1024), None, 7, 3, 8, 200, True),
    "v2-coco-stuff": ((256, 256), (286, 286), 5, 2, 40, 100, True),
    "v2-ade20k": ((256, 256), (286, 286), 5, 2, 40, 100, False),
    "v2-facades": ((256, 256), None, 5, 2, 20, 200, False),
    "v1-cityscapes": ((256, 512), None, 7, "semantic", 1, 100, 0.5, 2, "rising"),
    "v1-facades": ((256, 256), None, 7, "semantic", 1, 100, 0.5, 2, "rising"),
    "v1-edges2shoes": ((256, 256), None, 5, "sketch", 4, 5, 0, 1, "constant"),
    "v1-edges2shoes-10": ((256, 256), None, 5, "sketch", 4, 10, 0, 1, "constant"),
    "v1-edges2handbags": ((256, 256), None, 5, "sketch", 4, 5, 0, 1, "constant"),
    "v1-edges2handbags-10": ((256, 256), None, 5, "sketch", 4, 10, 0, 1, "constant"),
}
SHARED: dict[str, dict[str, Any]] = {
    "v2": {
        **{"optimizer.betas": (0, 0.9), "optimizer.decay_fraction": 0.5, "loss.adversarial": "hinge"},
        **{"loss.foreground_rate": 5, "loss.sharpness": 1, "loss.perceptual": 10, "loss.feature_matching": 10},
        **{"backbone.perceptual": "vgg19", "loss.background_ids": None},
    },
    "v1": {
        **{"optimizer.betas": (0.5, 0.999), "loss.sharpness": 1, "loss.consistency": 5e-6, "loss.cycle": 10},
        **{"loss.adversarial": "vanilla", "loss.variant": "paper", "loss.diversity": 0, "backbone.perceptual": "vgg16"},
        **{"generator.progressive": True, "generator.coattention": True, "generator.modulation": "dg-norm"},
        **{"generator.input": "noise", "generator.noise_dim": 128, "discriminator.scales": 3},
        "discriminator.kind": "hierarchical",
    },
}
FOR_BOTH = {
    **{"optimizer.generator_lr": 2e-4, "optimizer.discriminator_lr": 2e-4, "backbone.discriminator": "vgg16"},
    **{"generator.width": 64, "discriminator.width": 64},
}


@pytest.mark.parametrize("name", RECIPES)
def test_presets_match_the_published_recipes(name: str) -> None:
    config, version = load_config(name), name[:2]
    expected = dict(zip(COLUMNS[version].split(), RECIPES[name], strict=True)) | SHARED[version] | FOR_BOTH
    assert {key: reduce(getattr, key.split("."), config) for key in expected} == expected
    if config.data.label_space != "sketch":
        assert config.data.format == config.data.label_space == name[3:].removesuffix("-h")


def test_v1_presets_have_the_published_background_ids() -> None:
    ids = "0 2 3 4 5 6 7 8 9 11 14 15 16 23"
    assert load_config("v1-cityscapes").loss.background_ids == tuple(map(int, ids.split()))
    assert load_config("v1-facades").loss.background_ids is None


UNPAIRED = {"lab2pix-v1", "cyclegan", "munit", "cut", "dclgan", "scan", "spap", "tsit-transfer", "usis"}


@pytest.mark.slow
def test_every_preset_without_pairs_is_unpaired_and_the_others_are_not() -> None:
    for name in preset_names():
        method = load_config(name).method
        assert get_method(method).paired == (method not in UNPAIRED), name
        assert (method == "lab2pix-v1") == name.startswith(("v1-", "unpaired-")), name


ABLATIONS: dict[str, tuple[str, list[dict[str, tuple[object, object]]]]] = {
    "paired": (
        "v2-cityscapes",
        [
            {"discriminator.kind": ("patch", "hierarchical")},
            {"loss.foreground_rate": (1.0, 5.0)},
            {"loss.sharpness": (0.0, 1.0)},
            {"generator.modulation": ("spade", "dg-norm")},
        ],
    ),
    "unpaired": (
        "v1-cityscapes",
        [
            {"generator.progressive": (False, True)},
            {"generator.coattention": (False, True)},
            {"loss.consistency": (0.0, 5e-6)},
            {"discriminator.kind": ("patch", "hierarchical")},
            {"loss.foreground_rate": (1.0, 2.0)},
            {"loss.sharpness": (0.0, 1.0)},
            {"generator.modulation": ("spade", "dg-norm")},
        ],
    ),
}


@pytest.mark.parametrize("kind", ABLATIONS)
def test_each_ablation_step_adds_one_component_up_to_the_whole_method(kind: str) -> None:
    whole, components = ABLATIONS[kind]
    steps = [load_config(name) for name in preset_names() if name.startswith(f"{kind}-")]
    assert [difference(one, other) for one, other in pairwise(steps)] == components
    assert difference(steps[-1], load_config(whole)) == {}


@pytest.mark.parametrize("name", ["v1-small", "v1-small-sketch", "v2-small"])
def test_small_presets_need_no_files_and_no_download(name: str) -> None:
    config = load_config(name)
    require_data_root(config)
    assert {config.backbone.discriminator, config.backbone.perceptual} == {"efficientnet-lite0"}

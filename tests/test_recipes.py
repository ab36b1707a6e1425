"""Configurations: published presets, merging, and one-sentence errors with the path of the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lab2pix.config.messages import setting_names
from lab2pix.config.schema import RunConfig
from lab2pix.config.sizes import nearest_size
from lab2pix.errors import ConfigError
from lab2pix.methods import get_method
from lab2pix.recipes import load_config, preset_descriptions, preset_names, require_data_root, to_yaml
from tests.helpers.configs import difference, error_of

LADDER = ["paired-a-spade", "paired-b-hierarchical", "paired-c-foreground", "paired-d-sharpness", "paired-e-lab2pix-v2"]


# --- presets -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_under_its_own_name_and_survives_yaml(name: str, tmp_path: Path) -> None:
    config = load_config(name)
    assert config.name == name
    file = tmp_path / "copy.yaml"
    file.write_text(to_yaml(config), encoding="utf-8")
    assert load_config(file) == config
    assert preset_descriptions()[name].endswith(".")


RECIPES = {
    # name: format, label space, (height, width), resize, upsamplings, scales, batch, epochs, instance edges
    "v2-cityscapes": ("cityscapes", "cityscapes", (256, 512), None, 6, 2, 20, 200, True),
    "v2-cityscapes-h": ("cityscapes", "cityscapes", (512, 1024), None, 7, 3, 8, 200, True),
    "v2-coco-stuff": ("coco-stuff", "coco-stuff", (256, 256), (286, 286), 5, 2, 40, 100, True),
    "v2-ade20k": ("ade20k", "ade20k", (256, 256), (286, 286), 5, 2, 40, 100, False),
    "v2-facades": ("facades", "facades", (256, 256), None, 5, 2, 20, 200, False),
}


@pytest.mark.parametrize("name", RECIPES)
def test_v2_presets_match_the_published_recipes(name: str) -> None:
    c = load_config(name)
    assert RECIPES[name] == (
        c.data.format,
        c.data.label_space,
        c.data.size,
        c.data.resize,
        c.generator.num_upsamples,
        c.discriminator.scales,
        c.train.batch_size,
        c.train.epochs,
        c.data.instance_edges,
    )
    assert (c.optimizer.generator_lr, c.optimizer.discriminator_lr, c.optimizer.betas) == (2e-4, 2e-4, (0.0, 0.9))
    assert c.optimizer.decay_fraction == 0.5
    loss = c.loss
    assert (loss.foreground_rate, loss.sharpness, loss.perceptual, loss.feature_matching) == (5, 1, 10, 10)
    assert (loss.adversarial, loss.background_ids) == ("hinge", None)  # the list of their label space
    assert (c.generator.width, c.discriminator.width, c.backbone.discriminator, c.backbone.perceptual) == (
        64,
        64,
        "vgg16",
        "vgg19",
    )


def test_each_paired_ablation_step_adds_one_component() -> None:
    rungs = [load_config(name) for name in LADDER]
    steps = [difference(rungs[i], rungs[i + 1]) for i in range(len(rungs) - 1)]
    assert steps == [
        {"discriminator.kind": ("patch", "hierarchical")},
        {"loss.foreground_rate": (1.0, 5.0)},
        {"loss.sharpness": (0.0, 1.0)},
        {"generator.modulation": ("spade", "dg-norm")},
    ]


def test_last_paired_ablation_step_is_v2_but_for_the_name() -> None:
    assert difference(load_config(LADDER[-1]), load_config("v2-cityscapes")) == {}


def test_v2_small_preset_needs_no_files() -> None:
    require_data_root(load_config("v2-small"))
    assert load_config("v2-small").backbone.discriminator == "efficientnet-lite0"


# --- merging -----------------------------------------------------------------------------------------------------


def test_later_config_layers_override_earlier_ones(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("base: v2-small\nseed: 1\ntrain: {batch_size: 4}\ngenerator: {width: 8}\n")
    (tmp_path / "own.yaml").write_text("base: base.yaml\nname: own\nseed: 2\n")
    config = load_config(tmp_path / "own.yaml", ["seed=3"])
    assert (config.name, config.seed, config.train.batch_size, config.generator.width) == ("own", 3, 4, 8)
    assert config.train.steps == load_config("v2-small").train.steps


def test_config_overrides_are_yaml_values() -> None:
    config = load_config(
        "v2-small",
        ["train.steps=null", "train.epochs=3", "data.size=[64, 96]", "optimizer.generator_lr=1e-3", "data.flip=false"],
    )
    assert (config.train.steps, config.train.epochs, config.data.size) == (None, 3, (64, 96))
    assert (config.optimizer.generator_lr, config.data.flip) == (1e-3, False)


def test_text_settings_take_the_text_of_an_override_as_typed() -> None:
    config = load_config(
        "v2-small", ["name=1e5", "data.root=2023", "data.val_split=on", "backbone.weights.vgg19=[a].pth"]
    )
    assert (config.name, config.data.root, config.data.val_split) == ("1e5", "2023", "on")
    assert config.backbone.weights == {"vgg19": "[a].pth"}


def test_config_files_hold_yaml_1_2(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("base: v2-small\nname: on\noptimizer: {generator_lr: 2e-4}\ndata: {val_split: ~}\n")
    config = load_config(file)
    assert (config.name, config.optimizer.generator_lr, config.data.val_split) == ("on", 2e-4, None)


def test_load_config_accepts_every_kind_of_source(tmp_path: Path) -> None:
    config = load_config("v2-small")
    file = tmp_path / "x.yaml"
    file.write_text("base: v2-small\n")
    assert load_config(config) == load_config({"base": "v2-small"}) == load_config(str(file)) == config
    assert load_config(config, ["seed=5"]).seed == 5


def test_backbone_weights_are_set_by_name() -> None:
    assert load_config("v2-small", ["backbone.weights.vgg16=/w.pth"]).backbone.weights == {"vgg16": "/w.pth"}


def test_circular_base_configs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    assert "leads back to itself" in error_of(tmp_path / "a.yaml")


# --- errors ------------------------------------------------------------------------------------------------------


def test_config_typo_names_file_key_and_nearest_setting(tmp_path: Path) -> None:
    file = tmp_path / "v2-mine.yaml"
    file.write_text("base: v2-small\ngenerator:\n  widht: 3\n")
    assert error_of(file) == f"{file}: unknown setting 'generator.widht'; did you mean 'generator.width'?"


def test_wrong_base_config_is_named_not_its_child(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("base: v2-small\ntrain: {batch_size: many}\n")
    (tmp_path / "own.yaml").write_text("base: base.yaml\nseed: 1\n")
    assert (
        error_of(tmp_path / "own.yaml")
        == f"{tmp_path / 'base.yaml'}: train.batch_size is 'many' but must be a whole number"
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("generator.widht=3", "unknown setting 'generator.widht'; did you mean 'generator.width'?"),
        ("bakcbone.discriminator=vgg16", "unknown setting 'bakcbone'; did you mean 'backbone'?"),
        ("batch_size=3", "unknown setting 'batch_size'; did you mean 'train.batch_size'?"),
        ("train.num_upsample=3", "unknown setting 'train.num_upsample'; did you mean 'generator.num_upsamples'?"),
        ("generator.width=wide", "generator.width is 'wide' but must be a whole number"),
        ("generator.width=1.5", "generator.width is 1.5 but must be a whole number"),
        ("generator.width=true", "generator.width is true but must be a whole number"),
        ("generator.width=null", "generator.width is null but must be a whole number"),
        ("generator.width=1", "generator.width is 1 but must be at least 2"),
        ("generator=3", "generator is 3 but must be a group of settings"),
        ("generator=[3]", "generator is a list but must be a group of settings"),
        ("data.flip=maybe", "data.flip is 'maybe' but must be true or false"),
        ("data.size=64", "data.size is 64 but must be a list such as [256, 256]"),
        ("data.size=[64]", "data.size must hold 2 numbers"),
        ("data.size=[64,64,3]", "data.size must hold 2 numbers"),
        ("data.size=[64,x]", "data.size is 'x' but must be a whole number"),
        ("discriminator.kind=pach", "discriminator.kind is 'pach'; did you mean 'patch'?"),
        ("discriminator.scales=5", "discriminator.scales is 5 but must be one of 1, 2, 3"),
        ("backbone.weights.vgg17=x", "backbone.weights knows no 'vgg17'; did you mean 'vgg19'?"),
        ("optimizer.generator_lr=.nan", "optimizer.generator_lr is nan but must be a finite number"),
        ("optimizer.generator_lr=0", "optimizer.generator_lr is 0 but must be greater than 0.0"),
        ("train.ema_decay=1", "train.ema_decay is 1 but must be less than 1.0"),
        ("optimizer.decay_fraction=2", "optimizer.decay_fraction is 2 but must be at most 1.0"),
        ("steps", "'steps' is not a setting; write key=value, such as train.batch_size=4"),
        ("train..steps=3", "'train..steps=3' is not a setting; write key=value, such as train.batch_size=4"),
        ("data.format=cityscpaes", "data.format is 'cityscpaes'; did you mean 'cityscapes'?"),
        ("data.label_space=scene", "data.label_space is 'scene'; did you mean 'scenes'?"),
        (
            "data.size=[16,100]",
            "data.size is [16, 100] (height, width), which cannot be padded to the multiples of 32 of at least 64 "
            "pixels that generator.num_upsamples=5 with hierarchical discriminators needs; the nearest valid size is "
            "[64, 96]",
        ),
        (
            "data.size=[32,64]",
            "data.size is [32, 64] (height, width), which cannot be padded to the multiples of 32 of at least 64 "
            "pixels that generator.num_upsamples=5 with hierarchical discriminators needs; the nearest valid size is "
            "[64, 64]",
        ),
        (
            "data.resize=[60,80]",
            "data.resize is [60, 80] but must be at least data.size, [64, 64], that is cropped from it",
        ),
        ("optimizer.betas=[2,0.9]", "optimizer.betas is 2 but must be less than 1.0"),
        ("train.accumulate=3", "train.batch_size is 8 but must be divisible by train.accumulate, 3"),
        ("train.steps=null", "neither train.epochs nor train.steps is set; set one, such as train.epochs=100"),
    ],
)
def test_config_errors_are_one_sentence(override: str, message: str) -> None:
    assert error_of("v2-small", "train.steps=100", "train.batch_size=8", override) == message


def test_config_accepts_small_images_with_patch_discriminators() -> None:
    assert load_config("v2-small", ["data.size=[32,32]", "discriminator.kind=patch"]).data.size == (32, 32)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1\n", "not valid YAML in line"),
        (b"name: a\nname: b\n", "not valid YAML in line 2: found duplicate key name"),
        (b"null: 3\n", "unknown setting 'null'"),
        (b"- 1\n", "must hold settings as `key: value` lines"),
        (b"\xff\xfe\x00", "YAML"),
        (b"base: v2-smal\n", "unknown preset 'v2-smal'; did you mean 'v2-small'?"),
        (b"base: other.yaml\n", "no configuration file"),
        (b"base: [v2-small]\n", "base is ['v2-small'] but must be the name of a preset or a YAML file"),
    ],
)
def test_invalid_config_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(content)
    text = error_of(file)
    assert text.startswith(f"{file}: ")
    assert message in text


def test_missing_config_sources_are_refused(tmp_path: Path) -> None:
    assert error_of("v2-smal") == "unknown preset 'v2-smal'; did you mean 'v2-small'?"
    assert error_of("my/own.yaml") == "no configuration file my/own.yaml"
    assert "is a folder" in error_of(tmp_path)


def test_real_data_sets_need_a_root_when_training_starts() -> None:
    with pytest.raises(ConfigError, match=r"^data\.root is not set: add data\.root=/path/to/cityscapes$"):
        require_data_root(load_config("v2-cityscapes"))
    require_data_root(load_config("v2-cityscapes", ["data.root=/somewhere"]))


# --- help for users ----------------------------------------------------------------------------------------------


def test_every_setting_has_a_description() -> None:
    def bare(model: Any, prefix: str = "") -> list[str]:
        missing = []
        for name, info in model.model_fields.items():
            if hasattr(info.annotation, "model_fields"):
                missing += bare(info.annotation, f"{prefix}{name}.")
            elif not info.description:
                missing.append(prefix + name)
        return missing

    assert bare(RunConfig) == []
    assert {"generator.global_encoder.width", "data.scenes.seed", "train"} <= set(
        setting_names(get_method("lab2pix-v2").Config)
    )


@pytest.mark.parametrize(
    ("size", "multiple", "least", "nearest"),
    [((65, 70), 32, 1, (64, 64)), ((79, 81), 32, 1, (64, 96)), ((1, 1), 64, 1, (64, 64)), ((32, 32), 32, 64, (64, 64))],
)
def test_nearest_size_is_a_multiple_and_large_enough(
    size: tuple[int, int], multiple: int, least: int, nearest: tuple[int, int]
) -> None:
    assert nearest_size(size, multiple, least) == nearest


def test_resolved_presets_are_plain_yaml() -> None:
    assert yaml.safe_load(to_yaml(load_config("v2-small")))["data"]["size"] == [64, 64]

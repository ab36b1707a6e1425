"""Configurations: merging, and one-sentence errors with the path of the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lab2pix.config.messages import setting_names
from lab2pix.config.schema import RunConfig
from lab2pix.errors import ConfigError
from lab2pix.methods import get_method
from lab2pix.recipes import load_config, require_data_root, to_yaml
from tests.helpers.configs import error_of

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
        ("generator.width=1", "generator.width is 1 but must be at least 2"),
        ("generator=3", "generator is 3 but must be a group of settings"),
        ("data.flip=maybe", "data.flip is 'maybe' but must be true or false"),
        ("data.size=64", "data.size is 64 but must be a list such as [256, 256]"),
        ("data.size=[64]", "data.size must hold 2 numbers"),
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
            "[33, 100]",
        ),
        (
            "data.resize=[60,80]",
            "data.resize is [60, 80] but must be at least data.size, [64, 64], that is cropped from it",
        ),
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


# --- rules between settings --------------------------------------------------------------------------------------

SKETCH = ("generator.encoder=sketch", "data.label_space=sketch", "loss.foreground_rate=1")


@pytest.mark.parametrize(
    ("preset", "overrides", "message"),
    [
        ("v2-small", ("generator.encoder=sketch",), "unknown setting 'generator.encoder'"),
        ("v2-small", ("segmenter=4",), "unknown setting 'segmenter'"),
        ("v1-small", ("loss.perceptual=1",), "unknown setting 'loss.perceptual'"),
        (
            "v2-small",
            ("loss.cycle=1", "loss.perceptual=0"),
            "loss.cycle segments the features of the perceptual loss, but loss.perceptual is 0; set loss.cycle=0 or "
            "loss.perceptual above 0",
        ),
        (
            "v2-small",
            ("loss.imle_candidates=2", "generator.input=label"),
            "loss.imle_candidates needs noise, but generator.input is 'label', which uses none; "
            "set loss.imle_candidates=1 or generator.input=noise",
        ),
        (
            "v1-small",
            ("generator.progressive=false",),
            "loss.consistency compares outputs of neighboring scales, but generator.progressive is false; set "
            "loss.consistency=0 or generator.progressive=true",
        ),
        (
            "v1-small",
            ("discriminator.scales=2",),
            "discriminator.scales is 2, but generator.progressive makes three images, one for each discriminator; set "
            "discriminator.scales=3 or generator.progressive=false",
        ),
        (
            "v1-small",
            ("train.batch_size=4", "train.accumulate=4"),
            "loss.diversity compares two images of a label map, but a forward pass holds 1 (train.batch_size=4, "
            "train.accumulate=4); set train.batch_size=8 or more, or set loss.diversity=0",
        ),
        (
            "v1-small",
            (*SKETCH, "generator.input=label"),
            "loss.diversity needs noise, but generator.input is 'label', which uses none; set "
            "loss.diversity=0 or generator.input=noise",
        ),
        (
            "v1-small",
            ("data.format=sketch",),
            "data.format is 'sketch', but generator.encoder is 'semantic'; use a sketch preset such as v1-edges2shoes, "
            "or set generator.encoder=sketch",
        ),
        (
            "v1-small",
            ("data.label_space=sketch",),
            "data.label_space is 'sketch', but generator.encoder is 'semantic'; use a sketch preset such as "
            "v1-edges2shoes, or set generator.encoder=sketch",
        ),
        (
            "v1-small",
            ("generator.input=label", "loss.diversity=0"),
            "generator.input is 'label', but the semantic label encoder starts from noise; set it to noise",
        ),
        (
            "v1-small",
            ("generator.encoder=sketch",),
            "generator.encoder is 'sketch', but data.label_space is 'scenes'; set data.label_space=sketch",
        ),
        (
            "v1-small",
            (*SKETCH, "generator.num_upsamples=6"),
            "generator.num_upsamples is 6, but the sketch encoder halves five times; set it to 5",
        ),
        (
            "v1-small",
            (*SKETCH, "loss.foreground_rate=2"),
            "loss.foreground_rate is 2, but sketches have no classes to enhance; set it to 1",
        ),
        (
            "v1-cityscapes",
            ("data.size=[50,500]",),
            "data.size is [50, 500] (height, width), which cannot be padded to the multiples of 128 of at least 64 "
            "pixels that generator.num_upsamples=7 with hierarchical discriminators needs; the nearest valid size is "
            "[65, 500]",
        ),
        (
            "v1-cityscapes",
            ("data.size=[128,128]",),
            "data.size is [128, 128], which makes the generator's first scale one pixel, and a forward pass holds "
            "one sample, so its batch norm has nothing to average; set data.size=[128, 256], or set train.batch_size=2",
        ),
        (
            "v2-cityscapes",
            ("data.size=[64,64]", "train.batch_size=4", "train.accumulate=4"),
            "data.size is [64, 64], which makes the generator's first scale one pixel, and a forward pass holds one "
            "sample, so its batch norm has nothing to average; set data.size=[64, 128], or set train.batch_size=8",
        ),
        ("v1-small", ("segmenter.blocks=[1,1,0,1]",), "segmenter.blocks is 0 but must be at least 1"),
        ("v1-small", ("segmenter.width=2",), "segmenter.width is 2 but must be at least 4"),
        ("v1-small", ("loss.variant=released",), "loss.variant is 'released' but must be one of paper, official"),
        ("v1-small", ("data.sketch.from=photos",), "data.sketch.from is 'photos'; did you mean 'photo'?"),
    ],
)
def test_config_rules_are_one_sentence(preset: str, overrides: tuple[str, ...], message: str) -> None:
    assert error_of(preset, *overrides).startswith(message)


@pytest.mark.parametrize(
    ("preset", "overrides"),
    [
        ("v1-cityscapes", ("data.size=[128,128]", "train.batch_size=2")),
        ("v1-cityscapes", ("data.size=[128,256]",)),
        ("unpaired-a-spade", ("data.size=[32,64]", "generator.num_upsamples=5")),
        ("unpaired-a-spade", ("discriminator.scales=2",)),
        ("v1-edges2shoes", ("generator.input=label", "data.sketch.from=photo")),
    ],
)
def test_config_rules_accept_valid_combinations(preset: str, overrides: tuple[str, ...]) -> None:
    load_config(preset, overrides)


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


def test_resolved_presets_are_plain_yaml() -> None:
    assert yaml.safe_load(to_yaml(load_config("v2-small")))["data"]["size"] == [64, 64]

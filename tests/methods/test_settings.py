"""Published numbers of the presets of other methods, and settings that do not fit together."""

from __future__ import annotations

from functools import reduce
from typing import Any

import pytest

from lab2pix.errors import ConfigError
from lab2pix.recipes import load_config, preset_names
from tests.helpers.methods import narrow_method

CUT = ("generator.width=2", "generator.depth=1", "projection.patches=6", "projection.layers=[4,12]")
CYCLEGAN = ("generator.width=2", "generator.depth=1", "generator.encoding=one-hot")
PIX2PIXHD = ("data.size=[16,16]", "generator.downsamplings=1", "generator.blocks=1", "loss.perceptual=0")
FEATURES = ("features.width=2", "features.downsamplings=1", "features.images=4", "features.clusters=2")
TSIT = ("train.ema_decay=null", "data.size=[16,16]", "generator.num_upsamples=3")

PUBLISHED: dict[str, dict[str, Any]] = {
    "spade-cityscapes": {"data.size": (256, 512), "generator.num_upsamples": 6, "train.batch_size": 16},
    "spade-coco-stuff": {"data.resize": (286, 286), "train.epochs": 100, "optimizer.decay_fraction": 0},
    "spade-ade20k": {
        **{"data.instance_edges": False, "train.epochs": 200, "optimizer.decay_fraction": 0.5},
        **{"optimizer.generator_lr": 1e-4, "optimizer.discriminator_lr": 4e-4, "optimizer.betas": (0, 0.9)},
    },
    "cc-fpse-coco-stuff": {"data.resize": (286, 286), "generator.input": "style", "loss.feature_matching": 20},
    "cc-fpse-ade20k": {"data.instance_edges": False},
    "cc-fpse-cityscapes": {
        **{"data.size": (256, 512), "data.resize": None, "data.instance_edges": True},
        "generator.num_upsamples": 6,
    },
    "tsit-cityscapes": {
        **{"loss.perceptual": 20, "loss.feature_matching": 10, "loss.kl_divergence": 0.05},
        **{"generator.width": 64, "generator.num_upsamples": 7, "generator.input": "style"},
        **{"train.batch_size": 16, "train.epochs": 200, "optimizer.betas": (0, 0.9), "data.size": (256, 512)},
    },
    "tsit-ade20k": {"data.size": (256, 256), "data.resize": (286, 286), "generator.num_upsamples": 7},
    "tsit-yosemite": {"data.size": (256, 256), "train.epochs": 200, "loss.perceptual": 1, "loss.feature_matching": 1},
    "tsit-photo2art": {"train.epochs": 40, "loss.feature_matching": 2, "generator.sampling": "train"},
    "tsit-day2night": {"data.size": (256, 512), "train.epochs": 10, "loss.perceptual": 2, "discriminator.layers": 3},
    "tsit-weather": {"train.epochs": 20, "generator.sampling": "train", "optimizer.decay_fraction": 0},
    "pix2pixhd-cityscapes": {
        **{"data.size": (512, 1024), "generator.width": 64, "discriminator.scales": 2, "train.epochs": 200},
        **{"loss.perceptual": 10, "loss.feature_matching": 10, "train.batch_size": 1, "backbone.normalize": False},
    },
    "pix2pixhd-cityscapes-1024": {
        **{"data.size": (1024, 2048), "generator.width": 32, "discriminator.scales": 3, "train.epochs": 100},
        **{"optimizer.enhancer_epochs": 10, "backbone.normalize": False},
    },
    "pix2pixhd-cityscapes-1024-crop": {
        **{"data.size": (1024, 1024), "data.resize": (1024, 2048), "optimizer.enhancer_epochs": 20},
    },
    "pix2pixhd-cityscapes-features": {"features.per": "instance", "data.instance_edges": True},
    "pix2pix-facades": {"train.batch_size": 1, "generator.sampling": "train"},
    "pix2pix-cityscapes": {"train.batch_size": 1, "data.resize": (286, 286)},
    "pix2pix-edges2shoes": {"train.batch_size": 4, "train.epochs": 15},
    "cyclegan-facades": {"train.batch_size": 1, "generator.depth": 9},
    "cyclegan-cityscapes": {"train.batch_size": 1, "generator.depth": 6, "data.resize": (143, 143)},
    "cyclegan-edges2shoes": {"train.batch_size": 1, "train.epochs": 5},
    "munit-edges2shoes": {"data.size": (256, 256), "train.steps": 1_000_000, "loss.cycle": 0, "loss.perceptual": 0},
    "munit-summer2winter": {"data.size": (256, 256), "train.batch_size": 1, "loss.cycle": 10, "loss.perceptual": 0},
    "munit-synthia2cityscapes": {"data.size": (512, 512), "loss.cycle": 10, "loss.perceptual": 1},
    "cut-cityscapes": {
        **{"loss.nce": 1, "loss.identity": True, "loss.flip": False, "train.epochs": 400},
        "projection.layers": (0, 4, 8, 12, 16),
    },
    "fastcut-cityscapes": {"loss.nce": 10, "loss.identity": False, "loss.flip": True, "train.epochs": 200},
    "dclgan-cityscapes": {
        **{"loss.nce": 2, "loss.identity": 1, "loss.adversarial": "hinge", "train.epochs": 400},
        "projection.layers": (4, 8, 12, 16),
    },
}


@pytest.mark.parametrize("preset", PUBLISHED)
def test_published_presets_have_the_published_numbers(preset: str) -> None:
    config = load_config(preset)
    found = {key: reduce(getattr, key.split("."), config) for key in PUBLISHED[preset]}
    assert found == PUBLISHED[preset]


def test_all_presets_of_a_paper_share_what_its_table_says_of_all() -> None:
    presets = {name: load_config(name) for name in preset_names() if not name.endswith("-small")}
    munit = [config for name, config in presets.items() if name.startswith("munit-")]
    assert len(munit) == 4
    assert {(config.train.steps, config.train.batch_size) for config in munit} == {(1_000_000, 1)}
    cityscapes = [config for name, config in presets.items() if name.startswith("pix2pixhd-cityscapes")]
    assert len(cityscapes) == 4
    assert {(c.loss.perceptual, c.loss.feature_matching, c.train.batch_size) for c in cityscapes} == {(10, 10, 1)}


@pytest.mark.parametrize(
    ("preset", "settings", "message"),
    [
        ("spade-small", ["data.size=[12,128]"], r"multiples of 32.*nearest valid size is \[17, 128\]"),
        ("spade-small", ["data.size=[32,32]", "train.batch_size=1"], "first scale one pixel"),
        ("cc-fpse-small", ["data.size=[32,100]"], r"multiples of 32 of at least 64 pixels.*size is \[33, 100\]"),
        (
            "cc-fpse-small",
            ["data.size=[64,64]", "generator.num_upsamples=6", "train.batch_size=1"],
            "first scale one pixel",
        ),
        ("tsit-small", [*TSIT, "data.size=[7,6]"], r"first scale one pixel.*size is \[9, 6\]"),
        ("tsit-cityscapes", ["data.size=[60,500]"], r"multiples of 128.*size is \[65, 500\]"),
        ("tsit-transfer-small", [*TSIT, "data.input=labels", "data.format=folder"], "changes the style of images"),
        ("tsit-transfer-small", [*TSIT, "data.source.channels=1"], "the perceptual loss compares with the source"),
        (
            "pix2pixhd-small",
            [*PIX2PIXHD, "data.size=[16,70]", "generator.downsamplings=4"],
            r"multiples of 16 of at least 32.*size is \[17, 70\]",
        ),
        (
            "pix2pixhd-small",
            ["data.size=[8,8]", "generator.downsamplings=2", "generator.network=local"],
            r"multiples of 8 of at least 16",
        ),
        (
            "pix2pixhd-small",
            [*PIX2PIXHD, "features.per=class", "features.downsamplings=4"],
            r"multiples of 16 of at least 32",
        ),
        ("pix2pixhd-small", [*PIX2PIXHD, "optimizer.enhancer_epochs=2"], "generator.network is 'global'"),
        ("pix2pixhd-small", [*PIX2PIXHD, *FEATURES, "features.per=instance"], "data.instance_edges is false"),
        (
            "pix2pixhd-small",
            [*PIX2PIXHD, *FEATURES, "features.per=class", "data.input=images"],
            "generates from images; set features.per=none",
        ),
        (
            "pix2pixhd-small",
            [*PIX2PIXHD, *FEATURES, "features.per=class", "data.label_space=sketch"],
            "generates from line drawings",
        ),
        ("pix2pix-facades", ["data.size=[100,300]", "data.resize=null"], r"multiples of 256.*size is \[129, 300\]"),
        ("pix2pix-small", ["generator.depth=1"], "a U-Net has at least 2 levels"),
        ("pix2pix-edges2shoes", ["generator.encoding=colors"], "generates from line drawings"),
        ("cyclegan-facades", ["data.size=[12,50]", "data.resize=null"], r"at least 24.*valid size is \[13, 50\]"),
        ("v2-small", ["loss.labelmix=1"], r"loss\.segmentation is 0; set"),
        ("v2-small", ["data.input=images"], "method 'lab2pix-v2' generates from label maps"),
        ("munit-edges2shoes", ["data.size=[30,64]"], r"multiples of 4 of at least 64 pixels .*size is \[33, 64\]"),
        (
            "munit-edges2shoes",
            ["data.size=[64,64]", "discriminator.norm=instance"],
            r"at least 128 pixels that .*num_downsamples=2 with",
        ),
        ("munit-edges2shoes", ["generator.encoding=colors"], "generates from line drawings"),
        ("cut-small", [*CUT, "data.size=[6,64]"], r"multiples of 4 of at least 12 pixels .*size is \[7, 64\]"),
        ("cut-small", [*CUT, "projection.layers=[4,13]"], r"is \[4, 13\] but must rise from 0 or more to at most 12"),
        ("cut-small", [*CUT, "projection.layers=[8,4]"], "must rise"),
        ("cut-small", [*CUT, "projection.layers=[]"], r"projection\.layers"),
    ],
)
def test_settings_that_do_not_fit_are_named(preset: str, settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(preset, settings)


@pytest.mark.parametrize(
    ("preset", "settings", "message"),
    [
        ("cyclegan-small", [*CYCLEGAN, "loss.identity=0.5"], r"loss\.identity is 0.5, but inputs have"),
        ("dclgan-small", [*CUT, "generator.encoding=one-hot", "loss.identity=1"], r"loss\.identity is 1, but inputs"),
        (
            "munit-small",
            ["generator.width=2", "loss.perceptual=1", "generator.encoding=one-hot"],
            r"loss\.perceptual is 1, but inputs have 14 channels",
        ),
        ("cut-small", [*CUT, "generator.encoding=one-hot"], "and images 3, but CUT encodes both with one network"),
        ("cut-small", [*CUT, "data.input=images", "data.source.channels=1"], "CUT encodes both with one network"),
    ],
)
def test_losses_between_domains_need_equal_channels(preset: str, settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        narrow_method(preset, *settings)


@pytest.mark.parametrize(("preset", "weight"), [("cyclegan-small", 0.5), ("dclgan-small", 1)])
def test_identity_loss_is_on_where_channels_are_equal(preset: str, weight: float) -> None:
    for settings, expected in ((["generator.encoding=colors"], weight), (["generator.encoding=one-hot"], 0)):
        assert narrow_method(preset, "generator.width=2", *settings).identity == expected


@pytest.mark.parametrize(
    ("preset", "size", "padded"), [("spade-small", [90, 128], (96, 128)), ("cc-fpse-small", [50, 100], (64, 128))]
)
def test_training_pads_other_sizes(preset: str, size: list[int], padded: tuple[int, int]) -> None:
    assert load_config(preset, [f"data.size={size}"]).padded_size == padded


@pytest.mark.parametrize(("weight", "padded"), [(0, (64, 96)), (1, (64, 128))])
def test_training_pads_to_the_sides_of_the_segmentation_discriminator(weight: int, padded: tuple[int, int]) -> None:
    assert load_config("v2-small", ["data.size=[64,96]", f"loss.segmentation={weight}"]).padded_size == padded

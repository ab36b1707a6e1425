"""Presets of Lab2Pix-V1, its ablation, and rules between its settings."""

from __future__ import annotations

import pytest

from lab2pix.methods import get_method
from lab2pix.recipes import load_config, preset_names, require_data_root
from tests.helpers.configs import difference, error_of

LADDER = [
    *("unpaired-a-spade", "unpaired-b-progressive", "unpaired-c-coattention", "unpaired-d-consistency"),
    *("unpaired-e-hierarchical", "unpaired-f-foreground", "unpaired-g-sharpness", "unpaired-h-lab2pix-v1"),
]


# --- presets (5.2) -----------------------------------------------------------------------------------------------

RECIPES = {
    # name: format and label space, (height, width), upsamplings, encoder, batch, epochs, decay, T, how λ2 goes
    "v1-cityscapes": ("cityscapes", (256, 512), 7, "semantic", 1, 100, 0.5, 2, "rising"),
    "v1-facades": ("facades", (256, 256), 7, "semantic", 1, 100, 0.5, 2, "rising"),
    "v1-edges2shoes": ("sketch", (256, 256), 5, "sketch", 4, 5, 0, 1, "constant"),
    "v1-edges2shoes-10": ("sketch", (256, 256), 5, "sketch", 4, 10, 0, 1, "constant"),
    "v1-edges2handbags": ("sketch", (256, 256), 5, "sketch", 4, 5, 0, 1, "constant"),
    "v1-edges2handbags-10": ("sketch", (256, 256), 5, "sketch", 4, 10, 0, 1, "constant"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_v1_presets_match_the_published_recipes(name: str) -> None:
    c = load_config(name)
    assert (c.method, c.data.label_space) == ("lab2pix-v1", c.data.format)
    assert RECIPES[name] == (
        c.data.format,
        c.data.size,
        c.generator.num_upsamples,
        c.generator.encoder,
        c.train.batch_size,
        c.train.epochs,
        c.optimizer.decay_fraction,
        c.loss.foreground_rate,
        c.loss.sharpness_schedule,
    )
    assert (c.optimizer.generator_lr, c.optimizer.discriminator_lr, c.optimizer.betas) == (2e-4, 2e-4, (0.5, 0.999))
    loss = c.loss
    assert (loss.sharpness, loss.consistency, loss.cycle, loss.adversarial) == (1, 5e-6, 10, "vanilla")
    assert (loss.variant, loss.diversity) == ("paper", 0)
    assert (c.generator.progressive, c.generator.coattention, c.generator.modulation) == (True, True, "dg-norm")
    assert (c.generator.input, c.generator.noise_dim, c.generator.width) == ("noise", 128, 64)
    assert (c.discriminator.kind, c.discriminator.scales, c.discriminator.width) == ("hierarchical", 3, 64)
    assert (c.backbone.discriminator, c.backbone.perceptual) == ("vgg16", "vgg16")


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


def test_each_unpaired_ablation_step_adds_one_component() -> None:
    rungs = [load_config(name) for name in LADDER]
    assert [name for name in preset_names() if name.startswith("unpaired-")] == LADDER
    steps = [difference(rungs[i], rungs[i + 1]) for i in range(len(rungs) - 1)]
    assert steps == [
        {"generator.progressive": (False, True)},
        {"generator.coattention": (False, True)},
        {"loss.consistency": (0.0, 5e-6)},
        {"discriminator.kind": ("patch", "hierarchical")},
        {"loss.foreground_rate": (1.0, 2.0)},
        {"loss.sharpness": (0.0, 1.0)},
        {"generator.modulation": ("spade", "dg-norm")},
    ]
    assert rungs[0].loss.cycle == 10  # A is SPADE with cycle segmentation


def test_last_unpaired_ablation_step_is_v1_but_for_the_name() -> None:
    assert difference(load_config(LADDER[-1]), load_config("v1-cityscapes")) == {}


@pytest.mark.parametrize("name", ["v1-small", "v1-small-sketch"])
def test_v1_small_presets_need_no_files_and_no_download(name: str) -> None:
    config = load_config(name)
    require_data_root(config)
    assert {config.backbone.discriminator, config.backbone.perceptual} == {"efficientnet-lite0"}


# --- rules -------------------------------------------------------------------------------------------------------

SKETCH = ("generator.encoder=sketch", "data.label_space=sketch", "loss.foreground_rate=1")


@pytest.mark.parametrize(
    ("preset", "overrides", "message"),
    [
        *(
            ("v2-small", (override,), f"unknown setting '{override.partition('=')[0]}'")
            for override in (
                *("generator.encoder=sketch", "generator.progressive=true", "generator.coattention=true"),
                *("loss.consistency=1", "loss.diversity=1", "loss.cycle_warmup=0.5", "segmenter=4"),
            )
        ),
        *(
            ("v1-small", (f"{key}=1",), f"unknown setting '{key}'")
            for key in ("loss.perceptual", "loss.feature_matching", "loss.imle_candidates")
        ),
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
            ("data.size=[64,64]",),
            "data.size is [64, 64] (height, width), which cannot be padded to the multiples of 128 of at least 64 "
            "pixels that generator.num_upsamples=7 with hierarchical discriminators needs; the nearest valid size is "
            "[128, 256]",
        ),
        (
            "v1-cityscapes",
            ("data.size=[50,500]",),
            "data.size is [50, 500] (height, width), which cannot be padded to the multiples of 128 of at least 64 "
            "pixels that generator.num_upsamples=7 with hierarchical discriminators needs; the nearest valid size is "
            "[128, 512]",
        ),
        (
            "v1-edges2shoes",
            ("data.size=[32,64]",),
            "data.size is [32, 64] (height, width), which cannot be padded to the multiples of 32 of at least 64 "
            "pixels that generator.num_upsamples=5 with hierarchical discriminators needs; the nearest valid size is "
            "[64, 64]",
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
def test_v1_config_rules_are_one_sentence(preset: str, overrides: tuple[str, ...], message: str) -> None:
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
def test_v1_config_rules_accept_valid_combinations(preset: str, overrides: tuple[str, ...]) -> None:
    load_config(preset, overrides)

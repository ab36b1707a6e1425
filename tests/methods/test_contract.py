"""Contract checks of every method, including one from outside of the package."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lab2pix.config.schema import RunConfig
from lab2pix.errors import ConfigError
from lab2pix.methods import Method, Phase, features, get_method, method_names, register
from lab2pix.methods.features import load_backbone
from lab2pix.recipes import load_config
from lab2pix.testing import check_method, check_processes
from tests.helpers.toy import ToyMethod, toy_config

NARROW = (
    *("data.size=[64,64]", "generator.width=2", "generator.modulation_hidden=2", "generator.global_encoder.width=2"),
    *("generator.global_encoder.max_width=4", "generator.noise_dim=4", "discriminator.kind=patch"),
    *("discriminator.width=2", "discriminator.max_width=4", "train.ema_decay=0.9", "train.batch_size=2"),
)
NARROW_PATCH_GAN = (
    *("data.size=[16,16]", "generator.width=2", "discriminator.width=2", "discriminator.layers=2"),
    *("train.ema_decay=0.9", "train.batch_size=2"),
)
NARROW_CONTRASTIVE = (
    *("data.size=[16,16]", "generator.width=2", "generator.depth=1", "discriminator.width=2", "discriminator.layers=2"),
    *("projection.width=4", "projection.patches=5", "projection.layers=[4,12]"),
    *("train.ema_decay=0.9", "train.batch_size=2"),
)
NARROW_GLOBAL = ("generator.downsamplings=2", "generator.blocks=1", "loss.perceptual=0")
NARROW_TRANSFER = ("data.resize=null", "generator.num_upsamples=3", "loss.perceptual=0")
NARROW_STAGES = (
    *("data.size=[16,16]", "generator.width=2", "generator.depth=1", "generator.refine_depth=1"),
    *("generator.fusion_width=2", "generator.encoding=one-hot", "discriminator.width=2", "discriminator.layers=1"),
    *("loss.identity=0", "loss.pool_size=3", "train.ema_decay=0.9", "train.batch_size=2"),
)
NARROW_SEMANTIC = (
    *("data.size=[64,64]", "generator.width=2", "discriminator.width=2"),
    *("train.ema_decay=0.9", "train.batch_size=2", "loss.perceptual=0"),
)
NARROW_SEGMENTATION = (
    *("data.size=[16,16]", "generator.width=2", "generator.num_upsamples=2", "generator.noise_dim=2"),
    *("train.ema_decay=0.9", "train.batch_size=2"),
)
SEGMENTATION = ("segmentation_discriminator.widths=[2,3,4]", "segmentation_discriminator.last_width=2")
NARROW_U_NET = ("discriminator.widths=[2,3,4]", "discriminator.last_width=2")
CASES: dict[str, tuple[str, tuple[str, ...]]] = {
    "cc-fpse": (
        "cc-fpse-small",
        (*NARROW_SEMANTIC, "generator.predictor_width=2"),
    ),
    "cut": ("cut-small", NARROW_CONTRASTIVE),
    "cyclegan": (
        "cyclegan-small",
        (*NARROW_PATCH_GAN, "generator.depth=1", "generator.encoding=one-hot", "loss.pool_size=3"),
    ),
    "dclgan": ("dclgan-small", (*NARROW_CONTRASTIVE, "generator.encoding=one-hot")),
    "dp-gan": (
        "dp-gan-small",
        (*NARROW_SEGMENTATION, *NARROW_U_NET, "generator.pyramid_width=2", "discriminator.head_width=2"),
    ),
    "lab2pix-v1": ("v1-small", (*NARROW, "loss.consistency=0", "segmenter.width=4", "segmenter.blocks=[1,1,1,1]")),
    "lab2pix-v2": ("v2-small", (*NARROW, "loss.perceptual=0", "loss.cycle=0")),
    "munit": (
        "munit-small",
        (
            *("data.size=[16,16]", "generator.width=2", "generator.mlp_width=4", "generator.blocks=1"),
            *("generator.encoding=one-hot", "discriminator.width=2", "discriminator.scales=2"),
            *("discriminator.layers=3", "train.ema_decay=0.9", "train.batch_size=2"),
        ),
    ),
    "oasis": ("oasis-small", (*NARROW_SEGMENTATION, *NARROW_U_NET, "generator.modulation_hidden=2")),
    "pix2pix": ("pix2pix-small", (*NARROW_PATCH_GAN, "generator.depth=4")),
    "pix2pixhd": (
        "pix2pixhd-small",
        (*NARROW_PATCH_GAN, *NARROW_GLOBAL, "loss.pool_size=3"),
    ),
    "tsit": (
        "tsit-small",
        (*NARROW_PATCH_GAN, "generator.num_upsamples=3", "generator.noise_dim=4", "loss.perceptual=0"),
    ),
    "tsit-transfer": ("tsit-transfer-small", (*NARROW_PATCH_GAN, *NARROW_TRANSFER)),
    "scan": ("scan-small", NARROW_STAGES),
    "spade": ("spade-small", (*NARROW_SEMANTIC, "generator.modulation_hidden=2")),
    "spap": (
        "spap-small",
        (*NARROW_PATCH_GAN, "generator.depth=1", "generator.encoding=one-hot", "pyramid.dilations=[2,1]"),
    ),
    "usis": (
        "usis-small",
        (
            *NARROW_SEGMENTATION,
            *("generator.modulation_hidden=2", "segmenter.widths=[2,3,4]", "segmenter.last_width=2"),
            *("discriminator.width=4", "discriminator.depth=1"),
        ),
    ),
}
"""A preset and the settings that make it narrow, by method."""
EXAMPLE = Path(__file__).parents[2] / "examples" / "add_a_method.py"


def narrow(name: str) -> RunConfig:
    preset, settings = CASES[name]
    return load_config(preset, settings)


@pytest.fixture(scope="module")
def example() -> type[Method]:
    spec = importlib.util.spec_from_file_location("add_a_method", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["add_a_method"] = module
    spec.loader.exec_module(module)
    return module.TinyGAN


def test_every_built_in_method_has_a_case() -> None:
    built_in = [name for name in method_names() if get_method(name).__module__.startswith("lab2pix.")]
    assert sorted(CASES) == built_in


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_built_in_method_keeps_the_contract(name: str) -> None:
    check_method(get_method(name), narrow(name))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("pix2pix", ["generator.sampling=train", "generator.dropout=0.5", "generator.depth=4", "train.accumulate=2"]),
        ("pix2pix", ["data.input=images", "data.source.channels=5", "generator.network=resnet", "generator.depth=1"]),
        ("cyclegan", ["data.input=images", "generator.depth=1", "discriminator.layers=0", "train.accumulate=2"]),
        ("cut", ["data.input=images", "loss.identity=false", "loss.flip=true", "train.accumulate=2"]),
        ("dclgan", ["data.input=images", "generator.norm=batch", "generator.antialias_up=false"]),
        ("munit", ["data.input=images", "loss.cycle=10", "discriminator.norm=layer", "train.accumulate=2"]),
        ("spade", ["generator.input=style", "generator.noise_dim=4", "train.accumulate=2"]),
        ("spade", ["generator.input=noise", "generator.num_upsamples=6", "train.gradient_checkpointing=true"]),
        ("cc-fpse", ["generator.input=style", "generator.noise_dim=4", "train.accumulate=2"]),
        ("dp-gan", ["loss.variant=official", "generator.noise_dim=0", "loss.alignment=0"]),
        ("oasis", ["generator.noise_dim=0", "loss.labelmix=0", "data.instance_edges=true", "train.accumulate=2"]),
        (
            "pix2pixhd",
            ["data.input=images", "data.source.channels=2", "discriminator.norm=batch", "train.accumulate=2"],
        ),
        (
            "pix2pixhd",
            [
                *(
                    "generator.network=local",
                    "generator.enhancers=1",
                    "generator.enhancer_blocks=1",
                    "generator.norm=batch",
                ),
                *("generator.downsamplings=1", "optimizer.enhancer_epochs=1", "data.instance_edges=true"),
                *("features.per=instance", "features.width=2", "features.downsamplings=1"),
            ],
        ),
        ("scan", ["data.input=images", "stages.freeze=false", "loss.gradient_penalty=10", "train.accumulate=2"]),
        ("spap", ["data.input=images", "pyramid.attention=channel", "pyramid.order=fine-to-coarse"]),
        ("tsit", ["generator.input=style", "data.instance_edges=true", "discriminator.layers=4"]),
        ("tsit-transfer", ["generator.sampling=train", "generator.alpha=0.5", "train.accumulate=2"]),
        ("usis", ["generator.network=wavelet", "generator.num_upsamples=1", "generator.width=1", "loss.r1_interval=1"]),
        ("lab2pix-v2", [*SEGMENTATION, "loss.segmentation=1", "loss.labelmix=10", "train.accumulate=2"]),
        ("pix2pixhd", ["features.per=class", "features.width=2", "features.downsamplings=1", "features.channels=2"]),
    ],
)
def test_input_and_sampling_of_choice_keep_the_contract(name: str, settings: list[str]) -> None:
    preset, own = CASES[name]
    check_method(get_method(name), load_config(preset, [*own, *settings]))


@pytest.mark.slow
def test_channel_mixing_keeps_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "load_backbone", lambda name, *_, **__: load_backbone(name))  # alike in each run
    preset, own = CASES["lab2pix-v2"]
    settings = ["discriminator.kind=hierarchical", "discriminator.scales=1", "backbone.channel_mixing=true"]
    check_method(get_method("lab2pix-v2"), load_config(preset, [*own, *settings]))


@pytest.mark.slow
def test_built_in_methods_train_in_two_processes() -> None:
    check_processes([(get_method(name), narrow(name)) for name in CASES])


@pytest.mark.slow
def test_example_keeps_the_contract_in_under_80_lines(example: type[Method]) -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 80
    check_method(example, load_config({"method": "tiny-gan", "data": {"size": [16, 16]}, "train": {"steps": 1}}))


@pytest.mark.slow
def test_example_trains_as_a_program(tmp_path: Path) -> None:
    words = ["data.format=scenes", "data.size=[32,32]", "data.scenes.train_count=4", "data.scenes.val_count=2"]
    command = [
        sys.executable,
        str(EXAMPLE),
        str(tmp_path / "run"),
        *words,
        "train.steps=2",
        "monitor.tensorboard=false",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "checkpoints" / "step-00000002" / "model.safetensors").is_file()


def broken(**changes: object) -> type[Method]:
    """Return a toy method with other members."""
    return type("Broken", (ToyMethod,), changes)


def both_phases_update_the_generator(self: ToyMethod) -> list[Phase]:
    return [Phase(phase.name, phase.backward, ("generator",)) for phase in ToyMethod.phases.fget(self)]


def generator_phase_alone(self: ToyMethod) -> list[Phase]:
    return ToyMethod.phases.fget(self)[:1]


def backward_without_scale(self: ToyMethod, batch, noise, context):
    from dataclasses import replace

    return ToyMethod.generator_backward(self, batch, noise, replace(context, scale=lambda loss: loss))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"phases": property(both_phases_update_the_generator)}, "fills gradients of discriminator"),
        ({"phases": property(generator_phase_alone)}, "no phase fills gradients of discriminator"),
        (
            {"optimizers": property(lambda self: dict([*ToyMethod.optimizers.fget(self).items()][:1]))},
            "no optimizer updates",
        ),
        ({"generator_backward": backward_without_scale}, "ignores the context's scale"),
        ({"load_extra_state": lambda self, state: None}, "extra_state differs"),
        ({"name": "another"}, "its name is 'another'"),
    ],
)
def test_contract_names_what_a_method_breaks(changes: dict[str, object], words: str) -> None:
    with pytest.raises((AssertionError, KeyError), match=words):
        check_method(broken(**changes), toy_config())


def test_register_refuses_a_name_that_is_taken() -> None:
    with pytest.raises(ConfigError, match="'toy' exists already; give Broken another name"):
        register(broken())
    with pytest.raises(ConfigError, match="'lab2pix-v1' exists already"):
        register(broken(name="lab2pix-v1"))
    assert register(ToyMethod) is ToyMethod


def test_unknown_method_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"method is 'lab2pix-v3'; did you mean 'lab2pix-v"):
        load_config({"method": "lab2pix-v3"})


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)

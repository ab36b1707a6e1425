"""Pix2PixHD: settings, steps, stages, instance features, data, and the authors' checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lab2pix.errors import CheckpointError, ConfigError, DataError
from lab2pix.inference import Synthesizer
from lab2pix.inference.convert import convert
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import Method, Progress, StepContext, example_inputs, generate_deterministic
from lab2pix.nn.instance_features import InstanceFeatureGenerator
from lab2pix.nn.resnet import ResNetGenerator
from lab2pix.recipes import load_config
from lab2pix.training.loop import train
from lab2pix.training.state import build_state
from lab2pix.training.step import training_step
from lab2pix.utils.distributed import DistributedContext
from tests.helpers.methods import narrow_method, training_inputs

TINY = (
    *("monitor.tensorboard=false", "train.batch_size=2", "train.ema_decay=null", "data.size=[16,16]"),
    *("generator.width=2", "generator.downsamplings=1", "generator.blocks=1", "discriminator.width=2"),
    "loss.perceptual=0",
)
LOCAL = ("generator.network=local", "generator.enhancer_blocks=1")
FEATURES = ("features.width=2", "features.downsamplings=1", "features.images=4", "features.clusters=2")
INSTANCES = ("features.per=instance", "data.instance_edges=true", *FEATURES)
CPU = torch.device("cpu")


def build(*settings: str) -> Method:
    return narrow_method("pix2pixhd-small", *TINY, *settings)


# --- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_1024_preset_starts_from_the_weights_of_the_smaller_one() -> None:
    small, large = (
        narrow_method(preset, f"generator.width={width}", "discriminator.width=2", "data.size=[64,64]")
        .networks["generator"]
        .state_dict()
        for preset, width in (("pix2pixhd-cityscapes", 4), ("pix2pixhd-cityscapes-1024", 2))
    )
    shared = {name for name in small if name in large and small[name].shape == large[name].shape}
    assert {name for name in large if name.startswith("model.")} == shared


def test_sizes_of_fewer_than_two_multiples_are_refused() -> None:
    sampling = build("generator.downsamplings=2").sampling
    for size, padded in (((8, 16), (8, 16)), ((5, 10), (8, 12))):
        sampling.check_size(*size)
        assert sampling.padded_size(size) == padded
    for size in ((4, 16), (8, 4)):
        with pytest.raises(ConfigError, match="multiples of 4, at least 8, that this generator takes"):
            sampling.check_size(*size)


@pytest.mark.slow
def test_training_pads_images_and_instance_maps_of_any_size(tmp_path: Path) -> None:
    write_pairs(tmp_path / "data", "ab")
    settings = ["data.format=folder", f"data.root={tmp_path / 'data'}", "data.val_split=null", "train.steps=1"]
    config = load_config("pix2pixhd-small", [*TINY, *INSTANCES, *settings, "data.size=[13,18]"])
    assert config.padded_size == (14, 18)
    train(config, tmp_path / "run", device="cpu")
    synthesizer = Synthesizer.load(tmp_path / "run", device="cpu")
    assert synthesizer(torch.zeros(20, 24, dtype=torch.int64)).tensor.shape == (1, 3, 13, 18)


# --- steps --------------------------------------------------------------------------------------------------------


def test_discriminators_see_conditions_and_images_of_the_pool() -> None:
    method = build("loss.pool_size=3")
    torch.manual_seed(0)
    for step in range(6):
        context = StepContext()
        for phase in method.phases:
            phase.backward(training_inputs(method, seed=step)[0], None, context)
    pool = method.extra_state()["pool"]
    assert pool.shape == (3, method.sampling.condition.channels + 3, 16, 16)
    with pytest.raises(CheckpointError, match="lacks Pix2PixHD's image pool"):
        method.load_extra_state({})


@pytest.mark.slow
@pytest.mark.parametrize("settings", [LOCAL, (*LOCAL, *INSTANCES)])
def test_first_epochs_train_the_local_enhancer_and_then_all_with_a_fresh_optimizer(settings: tuple[str, ...]) -> None:
    method = build(*settings, "optimizer.enhancer_epochs=1")
    method.to(CPU)
    state = build_state(method, CPU)
    dist, generator = DistributedContext(0, 1, CPU), method.networks["generator"]

    def moved(step: int) -> set[str]:
        before = {name: weight.clone() for name, weight in generator.named_parameters()}
        context = StepContext(progress=Progress(step, total=4, samples=4, batch_size=2))
        losses = training_step(state, [(training_inputs(method)[0], None)], context, dist)
        assert set(losses) == {"enhancer" if step < 2 else "generator", "discriminator"}
        return {name for name, weight in generator.named_parameters() if not torch.equal(weight, before[name])}

    first = [moved(step) for step in range(2)]
    parts = {name.removeprefix("generator.").partition(".")[0] for name in set().union(*first)}
    assert parts == {"model1_1", "model1_2", "encoder"} if "features.width=2" in settings else {"model1_1", "model1_2"}
    assert not state.optimizers["generator"].state
    everything = set().union(*(moved(step) for step in (2, 3)))
    assert everything == {name for name, _ in generator.named_parameters()}


@pytest.mark.slow
def test_perceptual_loss_takes_images_as_they_are() -> None:
    method = build(
        "loss.perceptual=3", "loss.feature_matching=0", "backbone.perceptual=vgg19", "backbone.normalize=false"
    )
    assert method.feature_networks() == {"vgg19": "backbone.perceptual"}
    seen: list[Tensor] = []
    method.perceptual.network.register_forward_hook(lambda _, given, __: seen.append(given[0]))  # type: ignore[attr-defined]
    batch = training_inputs(method)[0]
    losses = method.generator_backward(batch, None, StepContext())  # type: ignore[attr-defined]
    assert set(losses) == {"adversarial", "perceptual"}
    assert any(torch.equal(image, batch.image) for image in seen)
    scores = method.validation_scores(batch, batch.image)
    assert {name: value.item() for name, value in scores.items()} == {"l1": 0.0, "perceptual": 0.0}


# --- instance features ----------------------------------------------------------------------------------------------


def test_refresh_clusters_the_features_of_training_instances() -> None:
    method = build(*INSTANCES)
    assert method.refresh_batches == 2
    generator = method.sampling_generator(method.networks)
    batch, noise = example_inputs(method.sampling, (16, 16), 1)
    plain = generate_deterministic(generator, method.sampling, replace(batch, style=None), noise)[0]
    method.refresh(generator, [(training_inputs(method, seed=seed)[0], None) for seed in range(2)])
    assert isinstance(generator, InstanceFeatureGenerator)
    assert int(generator.counts.sum()) > 0
    classes = training_inputs(method)[0].label.unique()
    assert set(generator.counts.nonzero().flatten().tolist()) <= {
        *classes.tolist(),
        *training_inputs(method, seed=1)[0].label.unique().tolist(),
    }
    drawn = generate_deterministic(generator, method.sampling, replace(batch, style=None), noise)[0]
    assert not torch.equal(drawn, plain)


def test_instance_features_need_instance_maps() -> None:
    method = build(*INSTANCES)
    with pytest.raises(DataError, match="no instance map"):
        method.generator_backward(replace(training_inputs(method)[0], instances=None), None, StepContext())  # type: ignore[attr-defined]


def write_pairs(root: Path, names: str) -> None:
    """Write photos, label maps and instance maps of 20x24 pixels."""
    random = np.random.default_rng(0)
    for name in names:
        blocks = np.kron(random.integers(0, 3, (5, 6), dtype=np.uint8), np.ones((4, 4), np.uint8))
        parts = {
            "images/train": random.integers(0, 256, (20, 24, 3), dtype=np.uint8),
            "labels/train": blocks,
            "instances/train": (blocks.astype(np.uint16) * 1000 + random.integers(0, 2, blocks.shape)).astype(
                np.uint16
            ),
        }
        for folder, pixels in parts.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / folder / f"{name}.png")


@pytest.mark.slow
def test_training_with_instance_features_saves_clusters_and_draws_variants(tmp_path: Path) -> None:
    write_pairs(tmp_path / "data", "abc")
    settings = ["data.format=folder", f"data.root={tmp_path / 'data'}", "data.val_split=null", "train.steps=2"]
    config = load_config("pix2pixhd-small", [*TINY, *INSTANCES, *settings, "features.clusters=3"])
    train(config, tmp_path / "run", device="cpu")
    synthesizer = Synthesizer.load(tmp_path / "run", device="cpu")
    generator = synthesizer.generator
    assert isinstance(generator, InstanceFeatureGenerator)
    assert int(generator.counts.sum()) > 1
    ids = torch.zeros(16, 16, dtype=torch.int64)
    ids[:, 8:] = 1
    drawn = synthesizer(ids, samples=8, instances=ids + 3).tensor
    assert len({image.numpy().tobytes() for image in drawn}) > 1
    assert torch.equal(drawn, synthesizer(ids, samples=8, instances=ids + 3).tensor)


# --- the authors' checkpoints ---------------------------------------------------------------------------------------


def test_convert_reads_settings_from_any_generator(tmp_path: Path) -> None:
    for index, settings in enumerate(
        [("generator.norm=batch",), ("generator.downsamplings=3",), (*LOCAL, "generator.enhancers=2")]
    ):
        generator = build(*settings, "data.size=[64,64]").networks["generator"]
        weights = generator.state_dict()
        if "generator.norm=batch" not in settings:
            weights |= {"model.2.running_mean": torch.zeros(2), "model.2.running_var": torch.ones(2)}  # old torch
        torch.save(weights, tmp_path / "net.pth")
        made = convert(tmp_path / "net.pth", "pix2pixhd", tmp_path / str(index), label_space="scenes", size=(64, 64))
        assert str(made.generator) == str(generator)
        assert all(torch.equal(weight, weights[name]) for name, weight in made.generator.state_dict().items())


def test_convert_adds_a_channel_for_unknown_pixels_of_cityscapes(tmp_path: Path) -> None:
    space = LabelSpace.load("cityscapes")
    published = ResNetGenerator(space.num_classes + 1, width=2, blocks=1, downsamplings=3, bias=True)
    torch.save(published.state_dict(), tmp_path / "latest_net_G.pth")
    made = convert(tmp_path / "latest_net_G.pth", "pix2pixhd", tmp_path / "out")
    assert (made.label_space.name, made.config.data.size, made.config.data.instance_edges) == (
        "cityscapes", (512, 1024), True
    )  # fmt: skip
    first = made.generator.state_dict()["model.1.weight"]
    assert torch.equal(first[:, : space.num_classes], published.model[1].weight[:, :-1])  # type: ignore[union-attr,index]
    assert not first[:, space.num_classes].any()
    assert torch.equal(first[:, -1], published.model[1].weight[:, -1])  # type: ignore[union-attr,index]


@pytest.mark.parametrize("network", ["discriminator", "encoder", "lone"])
def test_convert_refuses_what_is_no_whole_generator(tmp_path: Path, network: str) -> None:
    if network == "discriminator":
        weights = {"scale0_layer0.0.weight": torch.zeros(2, 5, 4, 4)}
        message = "it holds discriminators of Pix2PixHD"
    elif network == "encoder":
        generator = build(*INSTANCES, "features.downsamplings=2").networks["generator"]
        weights = generator.encoder.state_dict()  # type: ignore[union-attr,operator]
        message = "it holds an encoder of instance features of Pix2PixHD"
    else:
        generator = build(*INSTANCES).networks["generator"]
        weights = generator.generator.state_dict()  # type: ignore[union-attr,operator]
        message = r"put their encoder, such as latest_net_E\.pth, next to it"
    torch.save(weights, tmp_path / "latest_net_G.pth")
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / "latest_net_G.pth", "pix2pixhd", tmp_path / "out", label_space="scenes")

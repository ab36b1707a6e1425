"""OASIS, DP-GAN and USIS: settings, losses by class, steps, networks, the authors' checkpoints, and training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.errors import CheckpointError, ConfigError
from lab2pix.inference import Synthesizer
from lab2pix.inference.convert import convert
from lab2pix.interop.keymap import rename
from lab2pix.methods import Progress, StepContext, example_inputs
from lab2pix.methods.oasis import OASIS
from lab2pix.methods.segmentation_gan import class_weights, fake_loss, segmentation_loss
from lab2pix.methods.step_record import RecordedRandom
from lab2pix.nn.dp_gan import DPGANDiscriminator, DPGANGenerator
from lab2pix.nn.oasis import OASISDiscriminator, OASISGenerator
from lab2pix.nn.usis import WaveletDiscriminator, WaveletGenerator, haar, inverse_haar
from lab2pix.recipes import load_config, preset_names
from tests.helpers.methods import narrow_method, training_inputs

COMMON = ("monitor.tensorboard=false", "data.size=[16,16]", "train.batch_size=2", "generator.width=1")
COMMON = (*COMMON, "generator.num_upsamples=2", "generator.noise_dim=3")
U_NET = ("discriminator.widths=[2,3,4]", "discriminator.last_width=2")
SMALL = {
    "oasis": (*COMMON, *U_NET, "generator.modulation_hidden=2"),
    "dp-gan": (*COMMON, *U_NET, "generator.pyramid_width=2", "discriminator.head_width=2"),
    "usis": (
        *(*COMMON, "generator.modulation_hidden=2", "segmenter.widths=[2,3]", "segmenter.last_width=2"),
        *("discriminator.width=4", "discriminator.depth=1"),
    ),
}


def build(name: str, *settings: str) -> Any:
    return narrow_method(f"{name}-small", *SMALL[name], *settings)


def count_weights(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


# --- settings -----------------------------------------------------------------------------------------------------


def test_published_presets() -> None:
    names = [name for name in preset_names() if name.startswith(("oasis-", "dp-gan-", "usis-"))]
    presets = {name: load_config(name) for name in names}
    kinds = {"oasis": ("ade20k", "cityscapes", "coco-stuff"), "dp-gan": ("ade20k", "cityscapes")}
    kinds["usis"] = kinds["oasis"]
    assert set(names) == {f"{name}-{data}" for name, sets in kinds.items() for data in (*sets, "small")}
    rates = {
        name: (config.optimizer.generator_lr, config.optimizer.discriminator_lr, config.train.batch_size)
        for name, config in presets.items()
    }
    assert rates["oasis-cityscapes"] == (4e-4, 4e-4, 20) and rates["oasis-coco-stuff"] == (1e-4, 4e-4, 32)
    assert rates["dp-gan-cityscapes"] == (2e-4, 2e-4, 5) and rates["dp-gan-ade20k"] == (4e-4, 4e-4, 5)
    assert rates["usis-cityscapes"] == (4e-4, 2e-3, 4) and rates["usis-ade20k"] == (1e-4, 2e-3, 4)
    decays = {name: (config.train.ema_decay, config.train.epochs) for name, config in presets.items()}
    assert decays["oasis-cityscapes"] == (0.999, 200) and decays["usis-coco-stuff"] == (0.9999, 100)
    assert presets["oasis-cityscapes"].loss.labelmix == 5 and presets["oasis-ade20k"].loss.labelmix == 10


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("oasis", ["data.size=[4,64]"], r"multiples of 8 .*nearest valid size is \[5, 64\]"),
        ("usis", ["discriminator.depth=3", "data.size=[8,64]"], r"multiples of 16 .*nearest valid size is \[9, 64\]"),
        ("usis", ["generator.network=wavelet", "generator.num_upsamples=3", "data.size=[4,16]"], "multiples of 16"),
        ("dp-gan", ["train.batch_size=1"], r"holds 1 sample.* needs 2 or more; set train\.batch_size=2"),
        ("dp-gan", ["train.accumulate=2"], r"holds 1 sample.*set train\.batch_size=4"),
        ("dp-gan", ["discriminator.widths=[2,3]"], r"discriminator\.widths"),
    ],
)
def test_settings_that_do_not_fit_are_named(name: str, settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(f"{name}-small", [*SMALL[name], *settings])


def test_ignored_classes_are_names_of_the_label_space() -> None:
    assert build("oasis").ignored == []
    assert build("oasis", "loss.ignored_classes=[sun,sky]").ignored == [2, 0]
    assert build("oasis", "data.label_space=ade20k").ignored == [150]
    with pytest.raises(ConfigError, match=r"names 'sum', which label space 'scenes' has not; did you mean 'sun'"):
        build("oasis", "loss.ignored_classes=[sum]")


# --- losses -------------------------------------------------------------------------------------------------------


def test_class_weights_give_every_class_the_same_share() -> None:
    label = torch.tensor([[[0, 0, 0, 1], [1, 3, 3, 3]]])
    assert torch.equal(class_weights(label, 5), torch.tensor([8 / 9, 8 / 6, 0, 8 / 9, 0]))
    assert torch.equal(class_weights(label, 5, [0]), torch.tensor([0, 8 / 4, 0, 8 / 6, 0]))
    assert not class_weights(torch.zeros(1, 2, 2, dtype=torch.int64), 2, [0]).any()


def test_segmentation_loss_is_a_mean_over_all_pixels() -> None:
    torch.manual_seed(0)
    logits, label = torch.randn(2, 4, 3, 3), torch.randint(3, (2, 3, 3))
    weights = torch.tensor([0.0, 2.0, 0.5])
    probability = logits.softmax(1)
    expected = sum(
        -weights[label[n, y, x]] * probability[n, label[n, y, x] + 1, y, x].log()
        for n in range(2)
        for y in range(3)
        for x in range(3)
    )
    assert segmentation_loss(logits, label, weights).item() == pytest.approx(float(expected) / 18, rel=1e-5)
    assert fake_loss(logits).item() == pytest.approx(float(-probability[:, 0].log().mean()), rel=1e-5)


def test_labelmix_pastes_whole_classes_by_a_coin_each() -> None:
    method, seen = build("oasis"), []
    batch, noise = training_inputs(method)
    coins = torch.ones(14)
    coins[int(batch.label[0, 0, 0])] = 0
    method.networks["discriminator"].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    random = RecordedRandom(normal=[torch.ones(2, 3)], uniform=[coins])
    terms = method.discriminator_losses(batch, noise, StepContext(random=random))
    fake, real, mixed = seen
    pasted = (batch.label == batch.label[0, 0, 0]).unsqueeze(1)
    assert torch.equal(mixed, torch.where(pasted, real, fake)) and 0 < pasted.float().mean() < 1
    assert terms["labelmix"] > 0
    assert set(build("oasis", "loss.labelmix=0").discriminator_losses(batch, noise, StepContext())) == {"fake", "real"}


# --- steps --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["official", "paper"])
def test_heads_learn_only_as_the_paper_means_it(variant: str) -> None:
    method = build("dp-gan", f"loss.variant={variant}", "data.size=[32,32]")
    batch, noise = training_inputs(method)
    generator, discriminator = (phase.backward(batch, noise, StepContext()) for phase in method.phases)
    assert {"scores", "alignment"} <= set(generator) and {"scores_fake", "scores_real"} <= set(discriminator)
    network = method.networks["discriminator"]
    assert all((weight.grad is not None) == (variant == "paper") for weight in network.heads.parameters())
    before = [weight.grad.clone() for weight in method.networks["generator"].parameters()]
    method.networks["generator"].zero_grad()
    score = method.networks["discriminator"](method.draw(batch, noise)).scores[0]
    assert score.shape == (2, 1, 8, 8) and all(bool(gradient.isfinite().all()) for gradient in before)


def test_scores_and_alignment_have_their_weights() -> None:
    found = []
    for settings in ([], ["loss.alignment=3"], ["loss.scores=3"], ["loss.alignment=0"]):
        method = build("dp-gan", *settings)
        batch, noise = example_inputs(method.sampling, method.config.data.size, 2)
        batch = replace(batch, image=torch.linspace(-1, 1, 1536).view(2, 3, 16, 16))
        found.append(method.phases[0].backward(batch, noise, StepContext()))
    base, aligned, scored, without = found
    assert aligned["alignment"].item() == pytest.approx(3 * base["alignment"].item(), rel=1e-4)
    assert scored["scores"].item() == pytest.approx(3 * base["scores"].item(), rel=1e-4)
    assert set(without) == {"segmentation", "scores"}


def test_usis_penalizes_gradients_every_fourth_step_of_an_epoch() -> None:
    method = build("usis")
    penalty = method.phases[-1]
    assert penalty.optimizers == ("discriminator",)
    assert [step for step in range(12) if penalty.when(Progress(step, 12, 12, 2))] == [0, 4, 6, 10]
    assert not build("usis", "loss.r1=0").phases[-1].when(Progress(0, 12, 12, 2))
    batch, noise = training_inputs(method)
    image = batch.image.clone().requires_grad_()
    method.networks["discriminator"](image).sum().backward()
    expected = 10 * image.grad.square().sum((1, 2, 3)).mean()
    assert penalty.backward(batch, noise, StepContext())["r1"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_segmenter_of_usis_sees_generated_images_of_new_noise_only() -> None:
    method, drawn = build("usis"), []
    batch, noise = training_inputs(method)
    method.networks["generator"].register_forward_pre_hook(lambda _, args: drawn.append(args[1]))
    images: list[Tensor] = []
    method.networks["segmenter"].register_forward_pre_hook(lambda _, args: images.append(args[0]))
    fresh = [torch.full((2, 3), value) for value in (1.0, 2.0)]
    context = StepContext(random=RecordedRandom(normal=fresh))
    for phase in method.phases[:3]:
        phase.backward(batch, noise, context)
    assert all(torch.equal(one, other) for one, other in zip(drawn, [noise, *fresh], strict=True))
    assert len(images) == 2 and not any(torch.equal(image, batch.image) for image in images)


def test_average_takes_over_statistics_of_training_batches() -> None:
    method = build("oasis", "train.refresh_batches=3", "train.ema_decay=0.5")
    assert method.refresh_batches == 3 and build("oasis", "train.ema_decay=null").refresh_batches == 0
    generator = method.build_generator(method.config, method.label_space)
    before = {name: weight.clone() for name, weight in generator.state_dict().items()}
    batch, noise = training_inputs(method)
    method.refresh(generator, [(batch, noise)] * 3)
    moved = {name for name, weight in generator.state_dict().items() if not torch.equal(weight, before[name])}
    assert moved and all(
        name.endswith(("running_mean", "running_var", "num_batches_tracked", "._u", "._v")) for name in moved
    )
    features: list[Tensor] = []
    generator.blocks[0].norm_0.norm.register_forward_pre_hook(lambda _, args: features.append(args[0]))
    generator(method.sampling.condition(batch), noise)
    mean = features[0].detach().mean((0, 2, 3))
    # Three batches, and the pass above.
    assert torch.allclose(generator.blocks[0].norm_0.norm.running_mean, (1 - 0.9**4) * mean, atol=1e-6)


# --- networks -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "weights"),
    [
        (lambda: OASISGenerator(35), 71_107_523),
        (lambda: DPGANGenerator(35), 69_513_219),
        (lambda: DPGANDiscriminator(35), 22_917_350),
        # Without the norms of shortcuts, which the authors' network has and never runs.
        (lambda: WaveletGenerator(35, width=16), 55_720_940 - 1_563_584),
        (lambda: WaveletDiscriminator((256, 512), width=512, depth=6), 25_333_377),
    ],
)
def test_networks_have_as_many_weights_as_the_authors(network: Callable[[], nn.Module], weights: int) -> None:
    with torch.device("meta"):
        assert count_weights(network()) == weights


def test_haar_transform_is_orthogonal() -> None:
    image = torch.tensor([[[[1.0, 2], [3, 5]]]])
    assert haar(image).flatten().tolist() == [5.5, -2.5, -1.5, 0.5]
    x = torch.randn(2, 3, 8, 12)
    assert torch.allclose(inverse_haar(haar(x)), x, atol=1e-6)
    assert haar(x).square().sum().item() == pytest.approx(x.square().sum().item(), rel=1e-5)


def test_discriminator_of_usis_compares_groups_of_images() -> None:
    judge = WaveletDiscriminator((16, 16), width=4, depth=1)
    one, other = torch.randn(1, 3, 16, 16), torch.randn(1, 3, 16, 16)
    assert not torch.allclose(judge(torch.cat([one, one])), judge(torch.cat([one, other]))[:1].expand(2, 1))
    assert judge(torch.randn(5, 3, 16, 16)).shape == (5, 1)


# --- training and the authors' checkpoints ------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["oasis", "usis"])
def test_presets_train_and_generate(tmp_path: Path, run: Callable[..., tuple[int, str, str]], name: str) -> None:
    words = ["data.scenes.train_count=4", "data.scenes.val_count=2", "train.steps=2", "train.refresh_batches=2"]
    words += ["data.size=[36,32]"]
    code, _, err = run("train", f"{name}-small", *SMALL[name], *words, "--out", tmp_path / "run", "--device", "cpu")
    assert code == 0, err
    synthesizer, label = Synthesizer.load(tmp_path / "run", device="cpu"), torch.zeros(36, 32, dtype=torch.int64)
    first, second = (synthesizer(label, seed=seed).tensor for seed in (0, 1))
    assert first.shape == (1, 3, 36, 32) and not torch.equal(first, second)


@pytest.mark.parametrize(("form", "file"), [("oasis", "oasis_a"), ("dp-gan", "dpgan_a"), ("usis", "usis_a")])
def test_converted_generators_draw_the_recorded_images(golden_root: Path, tmp_path: Path, form: str, file: str) -> None:
    held = load_file(golden_root / "peers" / f"{file}.safetensors")
    torch.save({name[2:]: weight for name, weight in held.items() if name.startswith("G.")}, tmp_path / "best_EMA.pth")
    (tmp_path / "space.yaml").write_text(
        "name: eight\nunknown_value: 0\nfile_offset: 1\nclasses: ["
        + ", ".join(f"{{name: c{i}}}" for i in range(7))
        + "]"
    )
    size = tuple(held["in.image"].shape[2:])
    space = str(tmp_path / "space.yaml")
    with pytest.raises(
        CheckpointError, match=r"set the --label-space that it was trained with, or put its best_D\.pth"
    ):
        convert(tmp_path / "best_EMA.pth", form, tmp_path / "none", size=size, label_space=space)
    prefix = "S." if form == "usis" else "D."
    segmenter = {name[2:]: weight for name, weight in held.items() if name.startswith(prefix)}
    torch.save(segmenter, tmp_path / "best_D.pth")
    convert(tmp_path / "best_EMA.pth", form, tmp_path / "out", size=size, label_space=space)
    synthesizer = Synthesizer.load(tmp_path / "out", device="cpu")
    # Unknown, the authors' class 0, is the last one here.
    label = (held["in.label"][:, 0].long() - 1) % 8
    drawn, recorded = synthesizer.generate(Batch(label), held["in.noise.eval"]), held["out.eval.fake"]
    step = size[0] // recorded.shape[-1]
    assert (drawn[..., ::step, ::step] - recorded).abs().max() <= 1e-4


@pytest.mark.parametrize(
    ("channels", "options", "space", "noise"),
    [
        (64 + 35, {}, "cityscapes", 64),
        (183, {}, "coco-stuff", 0),
        (64 + 12, {"label_space": "facades"}, "facades", 64),
    ],
)
def test_label_space_follows_from_the_channels(
    tmp_path: Path, channels: int, options: dict[str, str], space: str, noise: int
) -> None:
    network = OASISGenerator(channels, width=1, num_upsamples=2, modulation_hidden=2, noise_dim=0)
    torch.save(rename(network, OASIS.weight_rules["generator"]), tmp_path / "best_EMA.pth")
    converted = convert(tmp_path / "best_EMA.pth", "oasis", tmp_path / "out", **options)
    assert (converted.label_space.name, converted.config.generator.noise_dim) == (space, noise)
    assert converted.config.data.size == ((256, 512) if space == "cityscapes" else (256, 256))


def test_convert_asks_for_the_label_space(tmp_path: Path) -> None:
    network = OASISGenerator(64 + 7, width=1, num_upsamples=2, modulation_hidden=2, noise_dim=0)
    torch.save(rename(network, OASIS.weight_rules["generator"]), tmp_path / "best_EMA.pth")
    with pytest.raises(CheckpointError, match=r"71 channels together.* one shipped label space; set the --label-space"):
        convert(tmp_path / "best_EMA.pth", "oasis", tmp_path / "out")
    with pytest.raises(CheckpointError, match="say --from oasis"):
        convert(tmp_path / "best_EMA.pth", "dp-gan", tmp_path / "out")
    judge = OASISDiscriminator(7, widths=(2, 3), last_width=2)
    torch.save(rename(judge, OASIS.weight_rules["discriminator"]), tmp_path / "best_D.pth")
    with pytest.raises(CheckpointError, match="it holds a discriminator of OASIS, DP-GAN or USIS"):
        convert(tmp_path / "best_D.pth", "oasis", tmp_path / "out")

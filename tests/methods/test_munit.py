"""MUNIT: settings, steps, styles, the authors' checkpoints, and the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lab2pix.batch import Batch
from lab2pix.errors import CheckpointError, ConfigError, WeightsError
from lab2pix.inference import Synthesizer
from lab2pix.inference.convert import convert
from lab2pix.inference.export import export
from lab2pix.methods import Progress, StepContext, generate, step_decay
from lab2pix.methods.munit import MUNIT, load_perceptual
from tests.helpers.methods import narrow_method, training_inputs

SMALL = (
    *("monitor.tensorboard=false", "data.size=[16,16]", "train.batch_size=2", "generator.width=2"),
    *("generator.mlp_width=4", "generator.blocks=1", "discriminator.width=2", "discriminator.layers=2"),
    *("discriminator.scales=2", "train.ema_decay=null"),
)


def build(*settings: str) -> MUNIT:
    return narrow_method("munit-small", *SMALL, *settings)


# --- settings -----------------------------------------------------------------------------------------------------


def test_smallest_size_that_the_rules_allow_trains() -> None:
    for settings in (["data.size=[8,8]"], ["data.size=[16,16]", "discriminator.norm=instance"]):
        method = build(*settings, "generator.style_downsamples=3", "generator.num_downsamples=2")
        assert method.config.padded_size == method.config.data.size
        for phase in method.phases:
            phase.backward(*training_inputs(method), StepContext())


def test_rates_halve_first_in_the_step_before_a_whole_interval() -> None:
    schedule = step_decay(100, 0.5)
    assert [schedule(Progress(step, 1000)) for step in (0, 98, 99, 198, 199)] == [1, 1, 0.5, 0.5, 0.25]


def test_optimizers_have_weight_decay() -> None:
    specs = build().optimizers
    assert {(spec.lr, spec.betas, spec.weight_decay) for spec in specs.values()} == {(5e-4, (0.5, 0.999), 1e-4)}


# --- steps --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_losses_have_their_weights_and_optional_terms() -> None:
    method = build("loss.cycle=0")
    losses = method.generators_backward(*training_inputs(method), StepContext())
    names = {"adversarial", "image", "style", "content"}
    assert set(losses) == {f"{name}_{domain}" for name in names for domain in "ab"}
    for settings, changed in (("loss.image=30", "image_a"), ("loss.adversarial_weight=3", "adversarial_b")):
        torch.manual_seed(5)
        before = build("loss.cycle=0").generators_backward(*training_inputs(method), StepContext())
        after = build("loss.cycle=0", settings).generators_backward(*training_inputs(method), StepContext())
        assert float(after[changed]) == pytest.approx(3 * float(before[changed]), rel=1e-5)
        assert float(after["content_a"]) == pytest.approx(float(before["content_a"]), rel=1e-5)
    method = build("loss.cycle=10", "loss.perceptual=2")
    losses = method.generators_backward(*training_inputs(method), StepContext())
    assert {"cycle_a", "cycle_b", "perceptual_a", "perceptual_b"} <= set(losses)
    assert float(losses["perceptual_a"]) > 0
    assert method.feature_networks() == {"vgg16-caffe": "loss.perceptual"}


def test_perceptual_distance_is_zero_for_the_same_image_and_ignores_contrast() -> None:
    method = build("loss.perceptual=1")
    assert method.perceptual is not None
    image = torch.rand(1, 3, 16, 16)
    assert float(method._perceptual_distance(method.perceptual, image, image)) == 0
    assert float(method._perceptual_distance(method.perceptual, -image, image)) > 0.1


def test_perceptual_weights_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "vgg16-00b39a1b.pth"
    torch.save({"features.0.weight": torch.zeros(1)}, file)
    with pytest.raises(WeightsError, match=r"SHA-256 .* weights of vgg16-caffe have 00b39a1b"):
        load_perceptual(str(file), pretrained=True)


# --- sampling -----------------------------------------------------------------------------------------------------


def test_sampling_draws_styles_or_takes_them_from_images() -> None:
    method = build()
    batch, noise = training_inputs(method)
    batch = replace(batch, style=None)
    generator = method.sampling_generator(method.networks).eval()
    style = torch.rand(2, 3, 24, 16)
    with torch.no_grad():
        drawn = generate(generator, method.sampling, batch, noise)
        taken = generate(generator, method.sampling, replace(batch, style=style), noise)
        code = method.networks["generator_b"].enc_style(style)
        assert torch.equal(taken, generate(generator, method.sampling, batch, code))
    assert not torch.equal(drawn, taken)
    assert 0 < float(method.validation_scores(batch, drawn)["cycle"]) < 2


@pytest.mark.slow
def test_munit_trains_generates_and_exports(tmp_path: Path, run: Callable[..., tuple[int, str, str]]) -> None:
    words = [*SMALL, "data.size=[32,32]", "generator.width=8", "data.scenes.train_count=4", "data.scenes.val_count=2"]
    words += ["train.steps=2", "monitor.samples=2"]
    code, _, err = run("train", "munit-small", *words, "--out", tmp_path / "run", "--device", "cpu")
    assert code == 0, err
    synthesizer = Synthesizer.load(tmp_path / "run", device="cpu")
    label = torch.arange(32 * 32).view(32, 32) % 14
    images = synthesizer(label, samples=2).tensor
    assert not torch.equal(images[0], images[1])
    style = torch.randint(256, (3, 40, 40), dtype=torch.uint8)
    styled = synthesizer(label, style=style).tensor
    assert torch.equal(styled, synthesizer(label, style=style, seed=1).tensor)
    assert not torch.equal(styled[0], images[0])
    assert export(synthesizer, tmp_path / "program.pt2", form="torch").difference < 1e-4
    for size in ((30, 25), (5, 9)):
        assert synthesizer(label[: size[0], : size[1]], keep_size=True).tensor.shape == (1, 3, *size)
    with pytest.raises(ConfigError, match=r"multiples of 4, at least 8, .*nearest valid size is 5x32"):
        synthesizer(label[:4], keep_size=True)


# --- the authors' checkpoints -------------------------------------------------------------------------------------


def recorded(golden_root: Path, kind: str) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    held = load_file(golden_root / "peers" / "munit_a.safetensors")
    sides = {
        domain: {name[6:]: weight for name, weight in held.items() if name.startswith(f"{kind}_{domain}.")}
        for domain in "ab"
    }
    return sides, held


@pytest.mark.slow
@pytest.mark.parametrize(("reverse", "image", "style"), [(False, "x_ab", "s_b_gen"), (True, "x_ba", "s_a_gen")])
def test_converted_generators_draw_the_recorded_images(
    golden_root: Path, tmp_path: Path, reverse: bool, image: str, style: str
) -> None:
    sides, held = recorded(golden_root, "gen")
    for weights in sides.values():  # as saved by PyTorch 0.3
        weights["enc_content.model.0.norm.running_mean"] = torch.zeros(8)
    torch.save(sides, tmp_path / "gen_01000000.pt")
    converted = convert(tmp_path / "gen_01000000.pt", "munit", tmp_path / "out", size=(64, 64), reverse=reverse)
    assert converted.config.generator.style_downsamples == 4
    synthesizer = Synthesizer.load(tmp_path / "out", device="cpu")
    source = held["in.x_b" if reverse else "in.x_a"] / 127.5 - 1
    batch = Batch(torch.empty(2, 0, 0, dtype=torch.int64), source=source)
    drawn = synthesizer.generate(batch, held[f"in.{style}"].flatten(1))
    assert (drawn - held[f"out.{image}"]).abs().max() <= 1e-4


def test_convert_refuses_other_files_in_one_sentence(golden_root: Path, tmp_path: Path) -> None:
    judges, _ = recorded(golden_root, "dis")
    torch.save(judges, tmp_path / "dis.pt")
    with pytest.raises(CheckpointError, match="it holds discriminators of MUNIT"):
        convert(tmp_path / "dis.pt", "munit", tmp_path / "out")
    moments = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))]).state_dict()
    torch.save({"gen": moments, "dis": moments}, tmp_path / "optimizer.pt")
    with pytest.raises(CheckpointError, match="holds the state of optimizers; give the file of a generator"):
        convert(tmp_path / "optimizer.pt", "munit", tmp_path / "out")
    sides, _ = recorded(golden_root, "gen")
    torch.save(sides, tmp_path / "gen.pt")
    with pytest.raises(CheckpointError, match="generator of format 'munit'; say --from munit"):
        convert(tmp_path / "gen.pt", "cyclegan", tmp_path / "out")
    del sides["b"]["dec.model.2.conv.bias"]
    torch.save(sides, tmp_path / "part.pt")
    with pytest.raises(CheckpointError, match=r"generator 'b' lacks dec\.model\.2\.conv\.bias"):
        convert(tmp_path / "part.pt", "munit", tmp_path / "out")


def test_reverse_needs_a_checkpoint_of_both_directions(tmp_path: Path) -> None:
    from lab2pix.nn.resnet import ResNetGenerator

    torch.save(ResNetGenerator(3, width=2, blocks=1).state_dict(), tmp_path / "latest_net_G.pth")
    with pytest.raises(ConfigError, match="format 'cyclegan' has one direction; leave it out"):
        convert(tmp_path / "latest_net_G.pth", "cyclegan", tmp_path / "out", reverse=True)

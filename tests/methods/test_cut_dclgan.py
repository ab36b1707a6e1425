"""CUT, FastCUT and DCLGAN: settings, steps, contrasted patches, the authors' checkpoints, and training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lab2pix.batch import Batch
from lab2pix.errors import ConfigError
from lab2pix.inference import Synthesizer
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import Progress, StepContext, build_method
from lab2pix.methods.step_record import RecordedRandom
from lab2pix.recipes import load_config
from tests.helpers.methods import narrow_method, training_inputs

SMALL = (
    *("monitor.tensorboard=false", "data.size=[32,32]", "train.batch_size=2", "train.ema_decay=null"),
    *("generator.width=2", "generator.depth=1", "discriminator.width=2", "discriminator.layers=2"),
    *("projection.width=4", "projection.patches=6", "projection.layers=[4,12]"),
)


def build(preset: str, *settings: str) -> Any:
    return narrow_method(preset, *SMALL, *settings)


def step(method: Any, batch: Batch, context: StepContext) -> dict[str, float]:
    return {
        f"{phase.name}.{name}": float(value)
        for phase in method.phases
        for name, value in phase.backward(batch, None, context).items()
    }


# --- settings -----------------------------------------------------------------------------------------------------


def test_the_projection_learns_faster_and_with_other_moments() -> None:
    adam = {name: (spec.lr, spec.betas) for name, spec in build("dclgan-small").optimizers.items()}
    assert adam == {
        "discriminator": (4e-4, (0.5, 0.999)), "generator": (4e-4, (0.5, 0.999)), "projection": (2e-3, (0.9, 0.999)),
    }  # fmt: skip


def test_rates_of_fastcut_fall_in_its_last_fifty_epochs() -> None:
    method = build_method(load_config("fastcut-cityscapes", SMALL), LabelSpace.load("cityscapes"))
    schedule = method.optimizers["projection"].schedule
    factors = [schedule(Progress(epoch, 200)) for epoch in range(200)]
    assert factors[149] == 1
    assert factors[150] == pytest.approx(1 - 1 / 51)
    assert factors[199] == pytest.approx(1 - 50 / 51)


def test_cut_draws_line_drawings_in_three_channels() -> None:
    sketches = build("cut-small", "data.label_space=sketch", "data.sketch.from=labels")
    lines = torch.tensor([[[0, 1], [1, 0]]])
    assert torch.equal(sketches.sampling.condition(Batch(lines)), (1 - 2.0 * lines)[:, None].expand(-1, 3, -1, -1))


# --- steps --------------------------------------------------------------------------------------------------------


def test_losses_have_their_weights() -> None:
    names = {"discriminator.fake", "discriminator.real", "generator.adversarial", "generator.nce"}
    found = []
    for settings in ([], ["loss.nce=3"], ["loss.identity=false"], ["loss.adversarial_weight=3"]):
        method = build("cut-small", *settings)
        batch = training_inputs(method)[0]
        torch.manual_seed(2)
        found.append(step(method, batch, StepContext()))
    base, nce, alone, adversarial = found
    assert set(base) == names | {"generator.nce_identity"} and set(alone) == names
    assert nce["generator.nce_identity"] == pytest.approx(3 * base["generator.nce_identity"])
    assert alone["generator.nce"] == pytest.approx(2 * base["generator.nce"], rel=1e-4)
    assert adversarial["generator.adversarial"] == pytest.approx(3 * base["generator.adversarial"])


@pytest.mark.parametrize("coin", [0.75, 0.25])
def test_fastcut_mirrors_inputs_and_mirrors_features_of_their_images_back(coin: float) -> None:
    method = build("cut-small", "loss.identity=false", "loss.flip=true")
    generator, batch = method.networks["generator"], training_inputs(method)[0]
    a, given, contrasted = method.sampling.condition(batch), [], []
    generator.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    method.networks["projection"].register_forward_pre_hook(lambda _, args: contrasted.append(args[0]))
    places = [torch.arange(6), torch.arange(6)]
    step(method, batch, StepContext(random=RecordedRandom(uniform=[torch.tensor([coin])], permutation=places)))
    mirrored = coin < 0.5
    assert torch.equal(given[0], a.flip(-1) if mirrored else a)
    keys, queries = contrasted
    layers = method.config.projection.layers
    assert all(torch.equal(one, two) for one, two in zip(keys, generator.features(a, layers), strict=True))
    of_fake = generator.features(generator(given[0]), layers)
    for query, feature in zip(queries, of_fake, strict=True):
        assert torch.allclose(query, feature.flip(-1) if mirrored else feature, atol=1e-5)


def test_keys_are_of_the_domain_that_an_image_comes_from() -> None:
    method = build("dclgan-small")
    seen: list[tuple[str, int]] = []
    for name in ("projection_a", "projection_b"):
        method.networks[name].register_forward_hook(lambda *_, name=name: seen.append((name, torch.is_grad_enabled())))
    step(method, training_inputs(method)[0], StepContext())
    assert seen == [
        ("projection_a", False), ("projection_b", True), ("projection_b", False), ("projection_a", True)
    ]  # fmt: skip


def test_fewer_pixels_than_patches_are_all_taken() -> None:
    method = build("cut-small", "projection.patches=100")
    rows: list[int] = []
    method.networks["projection"].register_forward_hook(lambda _, __, output: rows.extend(len(one) for one in output))
    step(method, training_inputs(method)[0], StepContext())
    assert rows == [200, 128] * 4


# --- training and the authors' checkpoints ------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "settings"),
    [("cut-small", ["loss.flip=true", "loss.identity=false"]), ("dclgan-small", ["generator.encoding=one-hot"])],
)
def test_presets_train_and_generate(
    tmp_path: Path, run: Callable[..., tuple[int, str, str]], preset: str, settings: list[str]
) -> None:
    words = [*SMALL, *settings, "data.scenes.train_count=4", "data.scenes.val_count=2", "train.steps=2"]
    code, _, err = run("train", preset, *words, "--out", tmp_path / "run", "--device", "cpu")
    assert code == 0, err
    synthesizer, label = Synthesizer.load(tmp_path / "run", device="cpu"), torch.zeros(32, 32, dtype=torch.int64)
    assert synthesizer(label).tensor.shape == (1, 3, 32, 32)
    assert synthesizer(label[:5, :9], keep_size=True).tensor.shape == (1, 3, 5, 9)
    with pytest.raises(ConfigError, match=r"multiples of 4, at least 8, .*nearest valid size is 5x32"):
        synthesizer(label[:4], keep_size=True)

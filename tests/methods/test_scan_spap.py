"""SCAN and SPAP: stages, frozen weights, schedules, gradient penalty, places of the pyramids."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from lab2pix.errors import CheckpointError, ConfigError
from lab2pix.inference import Synthesizer
from lab2pix.methods import Progress, StepContext
from lab2pix.methods.scan import SCAN, gradient_penalty
from lab2pix.nn.spap import PyramidAttention
from lab2pix.recipes import load_config
from lab2pix.training.loop import train
from tests.helpers.methods import narrow_method, training_inputs

TINY = (
    *("data.size=[16,16]", "generator.width=2", "generator.depth=1", "generator.encoding=one-hot", "loss.pool_size=2"),
    *("discriminator.width=2", "discriminator.layers=1", "monitor.tensorboard=false"),
)
TINY_SCAN = (*TINY, "generator.refine_depth=1", "generator.fusion_width=2", "loss.identity=0")


@pytest.mark.parametrize(
    ("freeze", "expected"),
    [("true", [2, 2, 2, 2, 2, 2]), ("false", [2, 2, 2, 4, 4, 4])],
)
def test_scan_trains_one_stage_after_the_other(freeze: str, expected: list[int]) -> None:
    method = narrow_method("scan-small", *TINY_SCAN, f"stages.freeze={freeze}")
    steps = [Progress(step, 6, 6, 1) for step in range(6)]
    running = [[phase.name for phase in method.phases if phase.when(step)] for step in steps]
    assert [len(names) for names in running] == expected
    assert running[0] == ["coarse_generators", "coarse_discriminators"]
    assert running[5][-2:] == ["generators", "discriminators"]


def test_scan_lets_rates_fall_within_each_stage() -> None:
    method = narrow_method("scan-small", *TINY_SCAN, "optimizer.decay_fraction=0.5")
    steps = [Progress(step, 16, 2, 1) for step in range(16)]  # four epochs of two steps per stage
    rates = {name: [spec.schedule(step) for step in steps] for name, spec in method.optimizers.items() if "gen" in name}
    expected = [1, 1, 1, 1, 2 / 3, 2 / 3, 1 / 3, 1 / 3]
    assert rates["coarse_generators"] == pytest.approx([*expected, *[1 / 3] * 8])
    assert rates["generators"] == pytest.approx([*[1] * 8, *expected])


def test_scan_freezes_the_first_stage_and_trains_the_second_by_both_cycles() -> None:
    method = narrow_method("scan-small", *TINY_SCAN)
    assert isinstance(method, SCAN)
    generators = [method.stacked(name) for name in ("generator_a", "generator_b")]
    assert [float(network.stages) for network in generators] == [1, 1]
    losses = method.generators_backward(training_inputs(method)[0], None, StepContext())
    assert set(losses) == {"adversarial_a", "adversarial_b", "cycle_a", "cycle_b"}
    for network in generators:
        assert float(network.stages) == 2
        assert all(weight.grad is None for weight in network.coarse.parameters())
        for part in (network.refine, network.fusion):
            assert all(weight.grad is not None for weight in part.parameters())
            assert any(float(weight.grad.abs().max()) > 0 for weight in part.parameters())
    assert all(weight.requires_grad for network in generators for weight in network.parameters())


@pytest.mark.slow
def test_scan_run_ends_with_both_stages(tmp_path) -> None:
    settings = (
        *TINY_SCAN,
        "data.size=[32,32]",
        "train.steps=2",
        "data.scenes.train_count=2",
        "data.scenes.val_count=2",
    )
    assert train(load_config("scan-small", settings), tmp_path / "run", device="cpu").step == 2
    assert float(Synthesizer.load(tmp_path / "run", device="cpu").generator.stages) == 2
    saved = load_file(tmp_path / "run/checkpoints/step-00000002/training.safetensors")
    pools = {name: len(pool) for name, pool in saved.items() if ".pool_" in name}
    assert pools == {f"extra.0.pool_{name}": 1 for name in ("coarse_a", "coarse_b", "a", "b")}


def test_scan_needs_its_pools_to_resume() -> None:
    with pytest.raises(CheckpointError, match="lacks SCAN's image pool 'coarse_a'"):
        narrow_method("scan-small", *TINY_SCAN).load_extra_state({})


def test_gradient_penalty_is_that_of_a_linear_discriminator() -> None:
    weight = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)

    class Linear(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * weight).sum((1, 2, 3), keepdim=True)

    real, fake = torch.randn(3, 2, 1, 1), torch.randn(3, 2, 1, 1)
    assert float(gradient_penalty(Linear(), real, fake, torch.rand(3, 1, 1, 1))) == pytest.approx((5 - 1) ** 2)


def test_scan_names_the_multiple_of_valid_sizes() -> None:
    with pytest.raises(ConfigError, match=r"multiples of 8 of at least 12 .* valid size is \[9, 9\]"):
        load_config("scan-small", [*TINY_SCAN, "data.size=[8,8]"])


def test_spap_has_a_pyramid_in_each_network() -> None:
    method = narrow_method("spap-small", *TINY, "pyramid.order=fine-to-coarse")
    for name, network in method.networks.items():
        [place] = [place for place, layer in enumerate(network.model) if isinstance(layer, PyramidAttention)]
        before, after = network.model[place - 1], network.model[place + 1]
        if name.startswith("generator"):
            assert (type(before).__name__, type(after).__name__) == ("ResNetBlock", "ConvTranspose2d")
        else:
            assert place == len(network.model) - 2 and after.out_channels == 1
        assert network.model[place].levels[0][0].kernel_size == (1, 1)

"""What the benchmark switches off changes work and memory, and neither losses nor gradients."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from lab2pix.nn import small_maps, winograd
from lab2pix.nn.coattention import LSCA
from lab2pix.nn.modulation import SPADE

pytestmark = pytest.mark.xslow

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TINY = ["--width", "4", "--segmenter-width", "4", "--size", "64", "64"]
BACKBONE = "efficientnet-lite0"


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("train_step")
    finally:
        sys.path.remove(str(BENCHMARKS))
        for name in [name for name in sys.modules if name.startswith("train_step")]:
            del sys.modules[name]


@pytest.fixture(scope="module")
def quick():
    """Let convolutions as small as these take the ways of large ones."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_TILES", "_CHANNELS", "_CHANNELS_FIRST"):
            patch.setattr(winograd, name, 0)
        patch.setattr(small_maps, "_WEIGHTS", 2**10)
        patch.setattr(small_maps, "_PLACES", 16)
        yield


@pytest.fixture(scope="module", params=["v1", "v2"])
def prepared(request, script, quick):
    args = script.arguments(["--method", request.param, *TINY, "--backbones", BACKBONE, BACKBONE])
    method, batch, noise = script.build(args)
    settle_spectral_norms(method)
    step = script.Step(method, batch, noise)
    yield request.param, script.variants(script.METHODS[request.param]), step
    step.parts.restore()


@torch.no_grad()
def settle_spectral_norms(method) -> None:
    """Give every norm its exact vectors, so that it does not matter how often a weight is used in a step."""
    for player in method.networks.values():
        for module in player.modules():
            if isinstance(module, nn.utils.parametrize.ParametrizationList) and hasattr(module[0], "_u"):
                left, _, right = torch.linalg.svd(module.original.flatten(1), full_matrices=False)
                module[0]._u.copy_(left[:, 0])
                module[0]._v.copy_(right[0])


def results(step) -> dict[str, dict[str, torch.Tensor]]:
    """Take a step; return its losses and each player's gradients."""
    carry, losses = step.generator_half()
    losses |= step.discriminator_half(carry)
    players = step.method.networks.items()
    gradients = {name: {key: p.grad.clone() for key, p in player.named_parameters()} for name, player in players}
    return {"losses": losses, **gradients}


def test_every_variant_has_the_losses_and_gradients_of_the_product(prepared):
    _, variants, step = prepared
    step.use(variants["all savings"])
    expected = results(step)
    for variant, savings in variants.items():
        step.use(savings)
        found = results(step)
        for group, values in expected.items():
            assert found[group].keys() == values.keys()
            # Biases before a norm have a gradient of 0 but for rounding.
            rounding = 1e-6 * torch.stack([value.norm() for value in values.values()]).norm()
            for name, value in values.items():
                difference, allowed = (found[group][name] - value).norm(), 1e-3 * value.norm() + rounding
                assert difference <= allowed, f"{variant}: {name} differs by {difference:.1e} of {value.norm():.1e}"


def test_the_step_is_the_same_in_another_order_of_memory(prepared, script):
    _, variants, step = prepared
    step.use(variants["all savings"])
    expected = results(step)
    step.switch(script.Way(variants["all savings"], channels_last=True))
    found = results(step)
    for group, values in expected.items():
        rounding = 1e-5 * torch.stack([value.norm() for value in values.values()]).norm()
        for name, value in values.items():
            difference, allowed = (found[group][name] - value).norm(), 1e-3 * value.norm() + rounding
            assert difference <= allowed, f"{name} differs by {difference:.1e} of {value.norm():.1e}"


def test_switching_off_makes_the_step_do_the_plain_work(prepared):
    which, variants, step = prepared
    calls: dict[str, int] = {}

    def count(name: str, module: nn.Module) -> None:
        module.register_forward_hook(lambda *_: calls.__setitem__(name, calls.get(name, 0) + 1))

    step.use(variants["all savings"])  # a test before may have left another one
    count("generator", step.method.generator)
    count("discriminator", step.method.discriminator)
    (network,) = step.method.feature_extractors.networks.values()
    count("backbone", network)
    if which == "v1":
        for segmenter in step.method.drawer.segmenters:
            count("segmenters", segmenter)

    def calls_of(variant: str) -> dict[str, int]:
        calls.clear()
        step.use(variants[variant])
        step.discriminator_half(step.generator_half()[0])
        return dict(calls)

    lean = calls_of("all savings")
    assert lean["generator"] == lean["discriminator"] == 1
    assert calls_of("without generator_once")["generator"] == 2
    assert calls_of("without discriminator_one_pass")["discriminator"] == {"v1": 3, "v2": 2}[which]
    if which == "v1":
        assert lean["segmenters"] == 3
        assert calls_of("without segmenters_once") == lean | {"segmenters": 6}
        # Generated images at three scales, two larger ones halved for consistency, real and blurred ones together.
        assert lean["backbone"] == 8
    else:
        assert lean["backbone"] == 6


def test_switching_off_costs_operations(prepared):
    _, variants, step = prepared

    def work(variant: str) -> float:
        step.use(variants[variant])
        return step.work()

    lean = work("all savings")
    for saving in ("discriminator_frozen", "features_once", "distinct_global"):
        assert work(f"without {saving}") > lean


def test_the_parts_come_back_after_a_measurement(prepared, script):
    _, variants, step = prepared
    step.parts.restore()
    before = (SPADE.forward, LSCA.forward)
    ends = {name: script.Way(variants[name]) for name in ("all savings", "no savings")}
    rows = script.measure(step, ends, 1)
    assert before == (SPADE.forward, LSCA.forward)
    assert [row["variant"] for row in rows] == list(ends)
    assert rows[1]["memory_ratio"] == rows[1]["work_ratio"] == 1
    assert 0 < rows[0]["work_ratio"] < 1
    assert min(value for row in rows for value in row.values() if isinstance(value, float)) > 0

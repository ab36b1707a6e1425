from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lab2pix.errors import DataError
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import Progress, StepContext, build_method, build_sampling
from lab2pix.methods.lab2pix_v2 import _Scale
from lab2pix.nn.discriminators import ScaleOutput, pyramid
from lab2pix.recipes import load_config
from tests.helpers.tiny import batch, discriminator_half, generator_half, noise, step

SMALL = {
    "base": "v2-small",
    "data": {"size": [64, 64]},
    "generator": {"width": 4, "modulation_hidden": 8, "global_encoder": {"width": 4, "max_width": 16}},
    "discriminator": {"scales": 2, "width": 4, "max_width": 16},
    "loss": {"cycle": 0},
}
SPACE = LabelSpace.load("scenes")


def tiny(*overrides: str):
    return load_config(SMALL, list(overrides))


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("discriminator.scales=3", "data.size=[128,128]"),
        ("discriminator.kind=patch", "generator.modulation=spade", "loss.foreground_rate=1", "loss.sharpness=0"),
        ("generator.input=label", "loss.adversarial=vanilla"),
        ("data.instance_edges=true", "loss.variant=official"),
        ("loss.perceptual=0", "loss.feature_matching=0"),
        ("data.size=[64,128]", "generator.num_upsamples=6"),
        ("loss.cycle=10",),
        (
            "loss.cycle=10",
            "discriminator.scales=1",
            "loss.imle_candidates=2",
            "backbone.discriminator=efficientnet-lite1",
        ),
        ("loss.cycle=10", "augment.shift=4", "augment.discriminator=[color,translation,cutout]"),
    ],
)
def test_v2_step_updates_every_parameter(overrides):
    config = tiny(*overrides)
    method = build_method(config, SPACE)
    data = batch(config)
    generator_losses, discriminator_losses, untouched = step(method, data, noise())
    assert untouched, "the generator's half must not fill discriminator gradients"
    for network in method.networks.values():
        missing = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert not missing
    loss = config.loss
    assert set(generator_losses) == {"adversarial"} | {
        name
        for name, weight in {
            "perceptual": loss.perceptual,
            "feature_matching": loss.feature_matching,
            "cycle": loss.cycle,
            "cycle_real": loss.cycle,
        }.items()
        if weight > 0
    }
    assert set(discriminator_losses) == {"real", "fake"} | ({"sharpness"} if loss.sharpness else set())
    assert all(value.isfinite() and not value.requires_grad for value in generator_losses.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [(), ("backbone.discriminator=vgg16",), ("discriminator.kind=patch",), ("loss.cycle=10",)],
)
def test_v2_gradients_equal_those_of_one_autograd_graph(overrides):
    """Gathering the gradient at the image, group by group, changes nothing but the memory it takes."""
    config = tiny(*overrides)
    torch.manual_seed(0)
    method = build_method(config, SPACE, pretrained=False)
    method.networks["generator"].eval()
    method.networks["discriminator"].eval()
    data, z = batch(method.config), noise()
    generator_half(method, data, z)
    ours = {name: p.grad.clone() for name, p in method.networks["generator"].named_parameters()}

    method.networks["generator"].zero_grad(set_to_none=True)
    condition = build_sampling(config, SPACE).condition(data)
    generated = pyramid(method.networks["generator"](condition, z), method.scales)
    conditions, real = pyramid(condition, method.scales), pyramid(data.image, method.scales)
    scales = [_Scale(*parts, None) for parts in zip(range(method.scales), generated, real, conditions, strict=True)]
    terms: list[torch.Tensor] = []
    collected = SimpleNamespace(backward=lambda losses: terms.extend(losses.values()))
    for scale in scales:
        method._scale_backward(collected, scale, data.label, method._mask(data), StepContext())
    torch.stack(terms).sum().backward()
    for name, parameter in method.networks["generator"].named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, atol=1e-5, rtol=1e-3)


@pytest.mark.slow
def test_segmentation_head_learns_from_photos_and_generator_from_its_errors():
    config = tiny("loss.cycle=1e4", "loss.feature_matching=0", "discriminator.scales=1", "train.init_gain=1")
    torch.manual_seed(0)
    method = build_method(config, SPACE)
    head = method.networks["segmentation_head"]
    method.networks["generator"].eval()
    data, z = batch(method.config), noise()
    generator_half(method, data, z)
    ours = [p.grad.clone() for p in head.parameters()]
    assert all(p.requires_grad for p in head.parameters())
    head.zero_grad(set_to_none=True)
    logits = head(method.feature_extractors(data.image, levels=0, perceptual=True).perceptual)
    assert logits.shape == (2, SPACE.num_classes, 32, 32)
    target = data.label[:, ::2, ::2]  # blocks of sixteen pixels: every other one says all
    torch.nn.functional.cross_entropy(logits, target).backward()
    for mine, parameter in zip(ours, head.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, atol=1e-6, rtol=1e-4)

    def learn(part, steps):
        """Let one of the two learn, the other stay; return its losses before the first and the last step."""
        optimizer = torch.optim.Adam(part.parameters(), lr=2e-3)
        found = []
        for _ in range(steps):
            _, losses = generator_half(method, data, z)
            optimizer.step()
            found.append({name: value.item() for name, value in losses.items()})
        return found[0], found[-1]

    before, after = learn(head, 30)
    assert after["cycle_real"] < 0.7 * before["cycle_real"]
    before, after = learn(method.networks["generator"], 15)
    assert after["cycle_real"] == pytest.approx(before["cycle_real"])
    assert after["cycle"] < 0.97 * before["cycle"]


@pytest.mark.slow
def test_official_perceptual_loss_compares_the_full_size_only():
    found = {}
    for variant in ("paper", "official"):
        torch.manual_seed(0)
        method = build_method(tiny(f"loss.variant={variant}"), SPACE, pretrained=False)
        method.networks["generator"].eval()
        calls = []
        (network,) = method.feature_extractors.networks.values()
        network.register_forward_hook(lambda _, given, out, calls=calls: calls.append(bool(out.perceptual)))
        generator_half(method)
        found[variant] = calls
    assert found == {"paper": [True] * 4, "official": [True, True, False, False, False, False]}


@pytest.mark.slow
@pytest.mark.parametrize("cycle", [0, 10])
def test_v2_holds_each_backbone_once_and_runs_it_once_per_image(cycle):
    method = build_method(tiny(f"loss.cycle={cycle}"), SPACE)
    assert len(method.feature_extractors.networks) == 1
    calls: list[int] = []
    (network,) = method.feature_extractors.networks.values()
    network.register_forward_hook(lambda module, args, output: calls.append(args[0].shape[0]))
    step(method)
    # generated, real and blurred, two samples each, at two scales
    assert calls == [2] * 6


@pytest.mark.slow
def test_the_generator_runs_once_and_the_discriminators_judge_in_one_pass():
    method = build_method(tiny(), SPACE)
    runs = {"generator": 0, "discriminator": []}
    method.networks["generator"].register_forward_hook(lambda *_: runs.__setitem__("generator", runs["generator"] + 1))
    method.networks["discriminator"].register_forward_hook(
        lambda m, args, out: runs["discriminator"].append(args[0][0].shape[0])
    )
    step(method)
    assert runs == {"generator": 1, "discriminator": [6]}


@pytest.mark.slow
@pytest.mark.parametrize("cycle", [0, 10])
def test_v2_loss_scale_reaches_every_gradient(cycle):
    config = tiny(f"loss.cycle={cycle}")
    grads = []
    for factor in (1.0, 4.0):
        torch.manual_seed(0)
        method = build_method(config, SPACE)
        method.networks["generator"].eval()
        method.networks["discriminator"].eval()
        step(method, context=StepContext(scale=lambda loss, factor=factor: loss * factor))
        grads.append([p.grad for network in method.networks.values() for p in network.parameters()])
    for single, fourfold in zip(*grads, strict=True):
        torch.testing.assert_close(fourfold, 4 * single, atol=1e-5, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("cycle", [0, 10])
def test_v2_bfloat16_step_is_finite_and_near_float32(cycle):
    config = tiny(f"loss.cycle={cycle}")
    totals = []
    for dtype in (None, torch.bfloat16):
        torch.manual_seed(0)
        method = build_method(config, SPACE)
        context = (
            StepContext(autocast=lambda dtype=dtype: torch.autocast("cpu", dtype=dtype)) if dtype else StepContext()
        )
        ours, theirs, _ = step(method, context=context)
        totals.append(torch.stack([*ours.values(), *theirs.values()]).float())
    assert totals[1].isfinite().all()
    torch.testing.assert_close(totals[1], totals[0], atol=0.15, rtol=0.1)


@pytest.mark.slow
def test_the_foreground_mask_follows_background_ids_and_rate():
    data = batch(tiny())
    assert build_method(tiny("loss.foreground_rate=1"), SPACE)._mask(data) is None
    everything = build_method(tiny("loss.background_ids=[]"), SPACE)._mask(data)
    torch.testing.assert_close(everything, torch.ones_like(everything))
    per_image = build_method(tiny("loss.background_ids=[0,1]"), SPACE)._mask(data)
    shared = build_method(tiny("loss.background_ids=[0,1]", "loss.variant=official"), SPACE)._mask(data)
    assert per_image.shape == (2, 1, 64, 64)
    assert shared.shape == (1, 1, 64, 64)
    torch.testing.assert_close(shared, per_image.mean(0, keepdim=True))


@pytest.mark.slow
def test_r1_penalty_of_a_known_discriminator():
    """Mean prediction 2 * mean pixel: each gradient is 2 / n for n = 3 * 64 * 64 values, the squared norm 4 / n."""
    patch = ("discriminator.kind=patch", "discriminator.scales=1")
    method = build_method(tiny(*patch, "loss.r1=10", "loss.r1_interval=2", "optimizer.discriminator_interval=3"), SPACE)
    carry, _ = generator_half(method)
    method.networks["discriminator"] = TwiceTheMean()
    for update, due in ((1, False), (2, True), (3, False), (4, True)):
        losses = discriminator_half(method, carry, StepContext(progress=Progress(3 * update - 1, 100)))
        assert ("r1" in losses) == due
    torch.testing.assert_close(losses["r1"], torch.tensor(0.5 * 10 * 2 * 4 / (3 * 64 * 64)))


class TwiceTheMean(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, inputs, features):
        return [ScaleOutput([self.scale * inputs[0][:, -3:].mean(1, keepdim=True)], [])]


@pytest.mark.slow
def test_r1_penalty_has_gradients_and_leaves_the_discriminators_plain():
    method = build_method(tiny("loss.r1=1e6", "loss.r1_interval=1"), SPACE)
    assert method.plain_networks == ("discriminator",)
    assert not any(network in method.compile_targets for network in method.networks["discriminator"].networks)
    carry, _ = generator_half(method)
    losses = discriminator_half(method, carry, StepContext())
    assert losses["r1"] > 0
    assert all(p.grad.isfinite().all() for p in method.networks["discriminator"].parameters())
    before = losses["r1"]
    torch.optim.SGD(method.networks["discriminator"].parameters(), 1e-3 / float(before)).step()
    losses = discriminator_half(method, carry, StepContext())
    assert losses["r1"] < before


@pytest.mark.slow
def test_released_discriminator_sum_is_the_papers_rescaled():
    """(real + λ2·real) / (1 + λ2) and no halving, as the released code has it."""
    torch.manual_seed(0)
    method = build_method(tiny(), SPACE)
    groups = [[[torch.randn(2, 1, 8, 8) for _ in range(3 - s)] for s in range(2)] for _ in range(3)]
    paper = method._discriminator_terms(groups, None, 1.0)
    released = build_method(tiny("loss.variant=official"), SPACE)
    released.level_weights = method.level_weights
    theirs = released._discriminator_terms(groups, None, 1.0)
    for name, value in paper.items():
        torch.testing.assert_close(theirs[name], value)  # at λ2 = 1 both factors are 1/2


def test_missing_instance_edges_are_one_sentence():
    with pytest.raises(DataError, match="instance_edges"):
        build_sampling(tiny("data.instance_edges=true"), SPACE).condition(batch(tiny()))


@pytest.mark.slow
def test_validation_scores_are_zero_for_the_truth():
    method = build_method(tiny(), SPACE)
    data = batch(method.config)
    perfect = method.validation_scores(data, data.image)
    wrong = method.validation_scores(data, -data.image)
    assert set(perfect) == {"l1", "perceptual"}
    assert all(value.item() == pytest.approx(0, abs=1e-6) for value in perfect.values())
    assert all(wrong[name] > 0.05 for name in wrong)


@pytest.mark.slow
def test_select_imle_noise_takes_the_nearest_to_the_photo():
    method = build_method(tiny("loss.imle_candidates=4"), SPACE)
    drawn = []

    class Flat(torch.nn.Module):
        """Draws one colour, which the noise says, and keeps what it drew from."""

        def forward(self, condition, z):
            drawn.append(z)
            return z[:, :3, None, None].tanh().expand(-1, 3, 64, 64)

    z, photo = noise(3), torch.zeros(3, 3, 64, 64)
    photo[:, :, ::2] = 0.5  # stripes that no cell of the comparison shows: their mean is a quarter
    photo[:, :, 1::2] = 0.0
    method.networks["generator"] = Flat()
    chosen = method._select_imle_noise(torch.zeros(3, 1, 64, 64), z, photo, StepContext())
    [candidates] = (given.unflatten(0, (4, 3)) for given in drawn)
    assert torch.equal(candidates[0], z)
    far = (candidates[..., :3].tanh() - 0.25).abs().mean(2)
    assert torch.equal(chosen, candidates[far.argmin(0), torch.arange(3)])
    assert not torch.equal(chosen, z)


@pytest.mark.slow
def test_v2_step_with_imle_is_reproducible():
    method = build_method(tiny("loss.imle_candidates=3"), SPACE)
    used = []
    method.networks["generator"].register_forward_pre_hook(
        lambda _, given: used.append((given[1], torch.is_grad_enabled()))
    )
    for _ in range(2):
        torch.manual_seed(5)
        step(method)
    assert [(len(given), learning) for given, learning in used] == [(6, False), (2, True)] * 2
    candidates = used[0][0].unflatten(0, (3, 2))
    assert all(any(torch.equal(used[1][0][place], row[place]) for row in candidates) for place in range(2))
    assert all(torch.equal(first[0], again[0]) for first, again in zip(used[:2], used[2:], strict=True))

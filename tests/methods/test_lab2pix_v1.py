"""Training step of Lab2Pix-V1: updated networks, gradients and forward passes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from lab2pix import losses
from lab2pix.methods import StepContext
from lab2pix.recipes import load_config
from tests.helpers.tiny import (
    NARROW,
    NO_BACKBONE,
    SKETCH,
    assert_alike,
    batch,
    build,
    generator_half,
    gradients,
    learners,
    noise,
    step,
    still,
    tiny,
)

BACKBONE = "efficientnet-lite0"
# On top of a preset of the full widths.
FOR_SCENES = {
    **NARROW,
    "data": {"format": "scenes", "label_space": "scenes", "size": [64, 64]},
    "backbone": {"discriminator": BACKBONE, "perceptual": BACKBONE},
    "loss": {"background_ids": None},
}
ABLATION = (
    *("unpaired-a-spade", "unpaired-b-progressive", "unpaired-c-coattention", "unpaired-d-consistency"),
    *("unpaired-e-hierarchical", "unpaired-f-foreground", "unpaired-g-sharpness", "unpaired-h-lab2pix-v1"),
)


# --- every parameter learns --------------------------------------------------------------------------------------


def check_step(config) -> None:
    method = build(config=config)
    ours, theirs, untouched = step(method)
    assert untouched, "the generator's half must not fill discriminator gradients"
    for network in method.networks.values():
        broken = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert not broken
    wanted = {name for name in ("consistency", "cycle", "diversity") if getattr(config.loss, name) > 0}
    assert set(ours) == {"adversarial"} | wanted
    assert set(theirs) == {"real", "fake"} | ({"sharpness"} if config.loss.sharpness else set())
    assert all(value.isfinite() and not value.requires_grad for value in (*ours.values(), *theirs.values()))


@pytest.mark.slow
@pytest.mark.parametrize("preset", ABLATION)
def test_v1_step_updates_every_parameter_at_every_ablation_step(preset):
    check_step(load_config({**FOR_SCENES, "base": preset}))


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ("data.size=[64,128]", "generator.num_upsamples=6", *NO_BACKBONE),
        ("loss.cycle=0", "loss.adversarial=hinge", *NO_BACKBONE),
        ("loss.diversity=0.1", "loss.sharpness_schedule=constant", *NO_BACKBONE),
        ("data.instance_edges=true", "generator.progressive=false", "discriminator.scales=2", *NO_BACKBONE),
        ("generator.progressive=false", "discriminator.scales=1", *NO_BACKBONE),
        SKETCH,
        (*SKETCH, "generator.input=label", "generator.modulation=spade", *NO_BACKBONE),
    ],
)
def test_v1_step_updates_every_parameter_with_other_settings(overrides):
    check_step(tiny(*overrides))


@pytest.mark.slow
def test_official_v1_step_updates_every_parameter():
    backbones = ("backbone.discriminator=vgg16", "backbone.perceptual=vgg19")
    check_step(tiny(*backbones, "loss.variant=official"))


@pytest.mark.slow
def test_generator_and_segmenters_share_an_optimizer():
    method = build(*NO_BACKBONE)
    assert list(method.networks) == ["generator", "segmenters", "discriminator"]
    assert method.optimizers["generator"].networks == ("generator", "segmenters")
    assert len(method.segmenters) == 3
    assert len(build("generator.progressive=false", *NO_BACKBONE).segmenters) == 1
    assert list(build("loss.cycle=0", *NO_BACKBONE).networks) == ["generator", "discriminator"]


# --- one plain graph ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ("loss.consistency=0.1",),
        ("loss.consistency=0.1", "loss.variant=official"),
        ("generator.progressive=false", *NO_BACKBONE),
        ("loss.diversity=0.5", "discriminator.kind=patch"),
    ],
)
def test_v1_gradients_equal_those_of_one_autograd_graph(overrides):
    """Gathering the gradients at the images, scale by scale, changes nothing but the memory it takes."""
    method = still(build("loss.cycle=1", *overrides))
    config, loss, data, z = method.config, method.config.loss, batch(method.config, 4), noise(4)
    _, values = generator_half(method, data, z)
    ours = gradients(learners(method))

    learners(method).zero_grad(set_to_none=True)
    label = data.label[[0, 0, 2, 3]] if loss.diversity > 0 else data.label
    data = replace(data, label=label)
    images = method.networks["generator"](method.sampling.condition(data), z)
    logits = [segmenter(image) for segmenter, image in zip(method.segmenters, images, strict=False)]
    while len(images) < 3:
        images.append(F.avg_pool2d(images[-1], 2))
    hierarchical = config.discriminator.kind == "hierarchical"
    levels = [3 - scale if hierarchical else 0 for scale in range(3)]
    seen = [
        method.feature_extractors(image, levels=count).discriminator
        for image, count in zip(images, levels, strict=True)
    ]
    judged = [
        network(image, features).predictions
        for network, image, features in zip(method.networks["discriminator"].networks, images, seen, strict=True)
    ]
    mask = losses.foreground_weights(method.label_space.foreground(label, None), loss.foreground_rate)
    mask = mask if method.variant.foreground_per_image else mask.mean(0, keepdim=True)
    weights = [[4 / 7, 2 / 7, 1 / 7], [2 / 3, 1 / 3], [1.0]] if hierarchical else [[1.0]] * 3
    terms = {
        "adversarial": losses.adversarial_loss(judged, losses.vanilla_real, weights, mask),
        "cycle": sum(F.cross_entropy(F.interpolate(read, size=(64, 64)), label) for read in logits),
    }
    if loss.consistency > 0:
        pairs = [
            [
                method.feature_extractors(image, levels=0, consistency=True).consistency
                for image in (F.avg_pool2d(large, 2), small)
            ]
            for large, small in ((images[0], images[1]), (images[1], images[2]))
        ]
        distances = [losses.image_consistency_loss(*pair, method.variant.consistency) for pair in pairs]
        terms["consistency"] = loss.consistency * sum(distances)
    if loss.diversity > 0:
        terms["diversity"] = loss.diversity * sum(losses.diversity_loss(x[:2], z[:2]) for x in images) / 3
    sum(terms.values()).backward()
    assert {name: value.item() for name, value in values.items()} == pytest.approx(
        {name: value.item() for name, value in terms.items()}, rel=1e-4
    )
    assert_alike(ours, gradients(learners(method)))


@pytest.mark.slow
def test_v1_bfloat16_step_is_finite_and_near_float32():
    totals = []
    for dtype in (None, torch.bfloat16):
        context = (
            StepContext(autocast=lambda dtype=dtype: torch.autocast("cpu", dtype=dtype)) if dtype else StepContext()
        )
        ours, theirs, _ = step(build(), context=context)
        totals.append(torch.stack([*ours.values(), *theirs.values()]).float())
    assert totals[1].isfinite().all()
    torch.testing.assert_close(totals[1], totals[0], atol=0.15, rtol=0.1)


# --- what a step costs -------------------------------------------------------------------------------------------


def count_calls(module, sizes: list[tuple[int, int]]) -> None:
    """Note the batch size and height of whatever a module sees first."""

    def note(_, given, __):
        first = given[0][0] if isinstance(given[0], list) else given[0]
        sizes.append((first.shape[0], first.shape[-2]))

    module.register_forward_hook(note)


@pytest.mark.slow
def test_generator_and_segmenters_run_once_and_the_discriminators_judge_in_one_pass():
    method = build()
    generator, pair, whole = [], [], []
    segmenters: list[list[tuple[int, int]]] = [[], [], []]
    count_calls(method.networks["generator"], generator)
    count_calls(method.segmenters[0], segmenters[0])
    count_calls(method.segmenters[1], segmenters[1])
    count_calls(method.segmenters[2], segmenters[2])
    count_calls(method.networks["discriminator"], whole)
    count_calls(method.networks["discriminator"].networks[0], pair)
    step(method)
    assert generator == [(2, 64)]
    assert segmenters == [[(2, 64)], [(2, 32)], [(2, 16)]]
    assert whole == [(6, 64)]  # generated, real and blurred beside each other
    assert pair == [(2, 64), (6, 64)]


@pytest.mark.slow
def test_a_shared_backbone_sees_each_image_once():
    method, looks = build(), []
    (network,) = method.feature_extractors.networks.values()
    count_calls(network, looks)
    step(method)
    generated = [(2, 64), (2, 32), (2, 32), (2, 16), (2, 16)]  # X3, X2 and pooled X3, X1 and pooled X2
    assert sorted(looks) == sorted([*generated, (4, 64), (4, 32), (4, 16)])  # and real and blurred ones together


@pytest.mark.slow
def test_two_backbones_see_what_each_is_for():
    method = build("backbone.discriminator=vgg16", "loss.sharpness=0")
    looks = {"vgg16": [], BACKBONE: []}
    for name, network in method.feature_extractors.networks.items():
        count_calls(network, looks[name])
    step(method)
    assert sorted(looks["vgg16"]) == sorted(2 * [(2, 64), (2, 32), (2, 16)])
    assert sorted(looks[BACKBONE]) == sorted(2 * [(2, 32), (2, 16)])


@pytest.mark.slow
def test_v1_holds_no_backbone_that_is_not_used():
    assert len(build(*NO_BACKBONE).feature_extractors.networks) == 0
    assert list(build("discriminator.kind=patch").feature_extractors.networks) == [BACKBONE]

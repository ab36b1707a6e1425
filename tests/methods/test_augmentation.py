from __future__ import annotations

import pytest
import torch

from lab2pix.methods import StepContext, build_method
from lab2pix.methods.augmentation import DiffAugment, random_offsets, shift
from lab2pix.methods.base import RandomSource
from tests.helpers.tiny import batch, generator_half
from tests.methods.test_lab2pix_v2 import SPACE, tiny

ALL = ("color", "translation", "cutout")


def test_shift_reflects_each_image_by_its_own_offset():
    x = torch.arange(2 * 4 * 5).view(2, 4, 5)
    moved = shift(x, torch.tensor([[1, 0], [0, -2]]))
    assert torch.equal(moved[0], x[0][[1, 2, 3, 2]])
    assert torch.equal(moved[1], x[1][:, [2, 1, 0, 1, 2]])


def test_random_offsets_reach_both_ends_and_no_further():
    torch.manual_seed(0)
    offsets = random_offsets(400, (1, 3), RandomSource())
    assert offsets[:, 0].unique().tolist() == [-1, 0, 1]
    assert offsets[:, 1].unique().tolist() == [*range(-3, 4)]


def test_diff_augment_without_changes_returns_its_input():
    x = torch.rand(2, 3, 8, 8)
    view = DiffAugment.draw((), 2, (8, 8), RandomSource())
    assert view(x) is x
    assert view.move(x) is x


def test_diff_augment_moves_colors_and_cuts_as_published():
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    middle = torch.full((2, 3), 0.5)
    torch.testing.assert_close(DiffAugment(colors=middle)(x), x)
    gray = DiffAugment(colors=torch.tensor([[0.75, 0.0, 0.5]] * 2))(x)
    torch.testing.assert_close(gray, x.mean(1, keepdim=True).expand_as(x) + 0.25)
    flat = DiffAugment(colors=torch.tensor([[0.5, 0.5, 0.0]] * 2))(x)
    torch.testing.assert_close(flat.std((1, 2, 3)), x.std((1, 2, 3)) / 2)
    cut = DiffAugment(cutouts=torch.tensor([[0.5, 0.5], [0.0, 0.0]]))(x + 2)
    assert (cut[0, 0] == 0).sum() == 8 * 8
    assert (cut[0, 0, 4:12, 4:12] == 0).all()
    assert (cut[1, 0] == 0).sum() == 4 * 4


@pytest.mark.slow
@pytest.mark.parametrize("policy", [(), ("translation",), ALL])
def test_label_maps_and_masks_move_with_what_discriminators_see(policy):
    method = build_method(tiny("augment.shift=5", f"augment.discriminator=[{','.join(policy)}]"), SPACE)
    data = batch(method.config)
    data.image[:] = (data.label / SPACE.num_classes)[:, None]
    torch.manual_seed(3)
    outputs, _ = generator_half(method, data)
    seen = outputs.conditions[0].argmax(1)
    assert not torch.equal(seen, data.label)
    assert torch.equal(outputs.mask, method._mask(type(data)(label=seen)))
    if "color" not in policy:
        torch.testing.assert_close(outputs.real[0][:, 0], seen / SPACE.num_classes)


@pytest.mark.slow
def test_the_perceptual_loss_sees_images_before_diff_augment():
    losses = {}
    for policy in ("[]", "[color,cutout]"):
        torch.manual_seed(0)
        method = build_method(tiny("loss.cycle=10", f"augment.discriminator={policy}"), SPACE)
        losses[policy] = generator_half(method, context=StepContext())[1]
    for name, value in losses["[]"].items():
        same = torch.allclose(value, losses["[color,cutout]"][name])
        assert same == (name in ("perceptual", "cycle", "cycle_real")), name

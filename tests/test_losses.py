from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lab2pix import losses


@given(
    seed=st.integers(0, 2**16),
    rate=st.floats(1, 20),
    share=st.floats(0, 1),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
)
def test_foreground_mask_has_mean_one_and_the_ratio_of_the_paper(seed, rate, share, height, width):
    generator = torch.Generator().manual_seed(seed)
    foreground = torch.rand(2, height, width, generator=generator) < share
    mask = losses.foreground_mask(foreground, rate)
    assert mask.shape == (2, 1, height, width)
    torch.testing.assert_close(mask.mean((1, 2, 3)), torch.ones(2), atol=1e-4, rtol=1e-4)
    for image, flags in zip(mask[:, 0], foreground, strict=True):
        if flags.any() and not flags.all():
            assert image[flags].max().item() == pytest.approx(rate * image[~flags].max().item(), rel=1e-4)


def test_foreground_mask_by_hand():
    # 1 foreground pixel of 4 with T = 5: P = 4 / (5 + 3) = 0.5
    mask = losses.foreground_mask(torch.tensor([[[True, False], [False, False]]]), 5.0)
    torch.testing.assert_close(mask, torch.tensor([[[[2.5, 0.5], [0.5, 0.5]]]]))


def test_masked_mean_pools_the_mask_to_the_prediction():
    mask = torch.tensor([[[[4.0, 0.0], [0.0, 0.0]]]])
    assert losses.masked_mean(torch.full((1, 1, 1, 1), 3.0), mask).item() == pytest.approx(3.0)
    assert losses.masked_mean(torch.arange(4.0).reshape(1, 1, 2, 2), None).item() == pytest.approx(1.5)


def test_hinge_terms_by_hand():
    prediction = torch.tensor([-2.0, 0.0, 2.0])
    assert losses.hinge_real(prediction).tolist() == [3.0, 1.0, 0.0]
    assert losses.hinge_fake(prediction).tolist() == [0.0, 1.0, 3.0]
    assert losses.hinge_generator(prediction).tolist() == [2.0, 0.0, -2.0]


def test_vanilla_terms_are_binary_cross_entropy():
    prediction = torch.linspace(-5, 5, 11)
    for term, target in ((losses.vanilla_real, 1.0), (losses.vanilla_fake, 0.0)):
        expected = torch.nn.functional.binary_cross_entropy(
            prediction.sigmoid(), torch.full_like(prediction, target), reduction="none"
        )
        torch.testing.assert_close(term(prediction), expected, atol=1e-6, rtol=1e-4)


def test_level_weights_of_the_paper_and_of_the_released_code():
    assert losses.level_weights([3, 2, 1]) == [[4 / 7, 2 / 7, 1 / 7], [2 / 3, 1 / 3], [1.0]]
    # the released code: ((a + b/2 + c/4) / 1.75 + d + e/2) / 1.5, then f on top without division, all by 3
    released = losses.level_weights([3, 2, 1], "released")
    expected = [
        [1 / 1.75 / 1.5 / 3, 0.5 / 1.75 / 1.5 / 3, 0.25 / 1.75 / 1.5 / 3],
        [1 / 1.5 / 3, 0.5 / 1.5 / 3],
        [1 / 3],
    ]
    for ours, theirs in zip(released, expected, strict=True):
        assert ours == pytest.approx(theirs)


def test_adversarial_loss_sums_scales_and_weighs_levels():
    predictions = [[torch.full((1, 1, 2, 2), 1.0), torch.full((1, 1, 1, 1), 4.0)], [torch.full((1, 1, 2, 2), 2.0)]]
    weights = losses.level_weights([2, 1])
    value = losses.adversarial_loss(predictions, losses.hinge_generator, weights)
    assert value.item() == pytest.approx(-(2 / 3 * 1 + 1 / 3 * 4) - 2)


@pytest.mark.parametrize("mode", ["nearest", "average"])
@pytest.mark.parametrize("size", [(8, 8), (6, 10), (7, 9)])
def test_blurred_keeps_size_and_flat_images_and_removes_detail(mode, size):
    flat = torch.full((1, 3, *size), 0.25)
    torch.testing.assert_close(losses.blurred(flat, mode), flat)
    board = torch.zeros(1, 3, *size)
    board[..., ::2, 1::2] = 1
    board[..., 1::2, ::2] = 1
    soft = losses.blurred(board, mode)
    assert soft.shape == board.shape
    assert soft[..., :6, :6].diff(dim=-1)[..., ::2].abs().max() == 0  # pixels of a pair are alike


def test_blurred_average_is_the_mean_of_four():
    image = torch.tensor([[[[0.0, 1.0], [2.0, 5.0]]]])
    assert losses.blurred(image, "average").flatten().tolist() == [2.0] * 4
    assert losses.blurred(image, "nearest").flatten().tolist() == [0.0] * 4


def test_perceptual_loss_weighs_deep_features_most():
    zero = [torch.zeros(1, 2, 2, 2)] * 5
    one = [torch.ones(1, 2, 2, 2)] * 5
    assert losses.perceptual_loss(one, zero).item() == pytest.approx(1 / 32 + 1 / 16 + 1 / 8 + 1 / 4 + 1)
    with pytest.raises(ValueError, match="argument"):
        losses.perceptual_loss(one[:4], zero)


def test_feature_matching_reductions():
    zero = [[torch.zeros(1, 2)] * 4, [torch.zeros(1, 2)] * 2]
    fake = [[torch.full((1, 2), 1.0)] * 4, [torch.full((1, 2), 3.0)] * 2]
    assert losses.feature_matching_loss(fake, zero).item() == pytest.approx(1 + 3)
    assert losses.feature_matching_loss(fake, zero, "released").item() == pytest.approx((4 * 1 + 2 * 3) / 2)

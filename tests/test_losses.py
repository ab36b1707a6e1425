from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
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
def test_foreground_mask_matches_eq9(seed, rate, share, height, width):
    generator = torch.Generator().manual_seed(seed)
    foreground = torch.rand(2, height, width, generator=generator) < share
    mask = losses.foreground_weights(foreground, rate)
    assert mask.shape == (2, 1, height, width)
    torch.testing.assert_close(mask.mean((1, 2, 3)), torch.ones(2), atol=1e-4, rtol=1e-4)
    for image, flags in zip(mask[:, 0], foreground, strict=True):
        if flags.any() and not flags.all():
            assert image[flags].max().item() == pytest.approx(rate * image[~flags].max().item(), rel=1e-4)


def test_foreground_mask_matches_hand_computed_values():
    # 1 foreground pixel of 4 with T = 5: P = 4 / (5 + 3) = 0.5
    mask = losses.foreground_weights(torch.tensor([[[True, False], [False, False]]]), 5.0)
    torch.testing.assert_close(mask, torch.tensor([[[[2.5, 0.5], [0.5, 0.5]]]]))


def test_masked_mean_pools_the_mask_to_the_prediction():
    mask = torch.tensor([[[[4.0, 0.0], [0.0, 0.0]]]])
    assert losses.masked_mean(torch.full((1, 1, 1, 1), 3.0), mask).item() == pytest.approx(3.0)
    assert losses.masked_mean(torch.arange(4.0).reshape(1, 1, 2, 2), None).item() == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("form", "generator", "real", "fake"),
    [
        ("hinge", [2, 0, -2], [3, 1, 0], [0, 1, 3]),
        ("vanilla", [2.126928, 0.693147, 0.126928], [2.126928, 0.693147, 0.126928], [0.126928, 0.693147, 2.126928]),
        ("lsgan", [9, 1, 1], [9, 1, 1], [4, 0, 4]),
        ("wgangp", [2, 0, -2], [2, 0, -2], [-2, 0, 2]),
    ],
)
def test_adversarial_terms_match_hand_computed_values(form, generator, real, fake):
    terms, prediction = losses.ADVERSARIAL_TERMS[form], torch.tensor([-2.0, 0.0, 2.0])
    for term, expected in zip(terms, (generator, real, fake), strict=True):
        assert term(prediction).tolist() == pytest.approx(expected, rel=1e-5)


def test_level_weights_of_the_paper_and_of_the_released_code():
    assert losses.level_weights([3, 2, 1]) == [[4 / 7, 2 / 7, 1 / 7], [2 / 3, 1 / 3], [1.0]]
    # the released code: ((a + b/2 + c/4) / 1.75 + d + e/2) / 1.5, then f on top without division, all by 3
    released = losses.level_weights([3, 2, 1], "official")
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


@pytest.mark.parametrize("form", ["hinge", "vanilla"])
def test_sharpness_loss_matches_eq16(form):
    """Real images are real and blurred ones fake, with the same weights."""
    _, real_term, fake_term = losses.ADVERSARIAL_TERMS[form]
    real, blurred = ([[torch.randn(2, 1, 4, 4), torch.randn(2, 1, 2, 2)]] for _ in range(2))
    mask, weights = torch.rand(2, 1, 8, 8), losses.level_weights([2])
    value = losses.sharpness_loss(real, blurred, (real_term, fake_term), weights, mask)
    expected = sum(
        weight * (F.adaptive_avg_pool2d(mask, len(sharp[0, 0])) * (real_term(sharp) + fake_term(soft))).mean()
        for weight, sharp, soft in zip((2 / 3, 1 / 3), real[0], blurred[0], strict=True)
    )
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("mode", ["nearest", "average"])
@pytest.mark.parametrize("size", [(8, 8), (6, 10), (7, 9)])
def test_blur_keeps_size_and_flat_images_and_removes_detail(mode, size):
    flat = torch.full((1, 3, *size), 0.25)
    torch.testing.assert_close(losses.blur(flat, mode), flat)
    board = torch.zeros(1, 3, *size)
    board[..., ::2, 1::2] = 1
    board[..., 1::2, ::2] = 1
    soft = losses.blur(board, mode)
    assert soft.shape == board.shape
    assert soft[..., :6, :6].diff(dim=-1)[..., ::2].abs().max() == 0  # pixels of a pair are alike


def test_blur_average_is_the_mean_of_four():
    image = torch.tensor([[[[0.0, 1.0], [2.0, 5.0]]]])
    assert losses.blur(image, "average").flatten().tolist() == [2.0] * 4
    assert losses.blur(image, "nearest").flatten().tolist() == [0.0] * 4


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
    assert losses.feature_matching_loss(fake, zero, "scale-mean").item() == pytest.approx((4 * 1 + 2 * 3) / 2)


# --- image consistency (Eq. 18) ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        # two images that differ by (3, 4) and by nothing in one layer; each by a 2 in another
        ("norm", (5 + 0) / 2 + 2),
        ("squared", (25 + 0) / 2 + 4),
        ("mean-square", 25 / 4 + 4),
    ],
)
def test_image_consistency_matches_hand_computed_values(form, expected):
    pooled = [torch.tensor([[3.0, 4.0], [1.0, 1.0]]).reshape(2, 2, 1, 1), torch.full((2, 1, 1, 1), 2.0)]
    smaller = [torch.tensor([[0.0, 0.0], [1.0, 1.0]]).reshape(2, 2, 1, 1), torch.zeros(2, 1, 1, 1)]
    assert losses.image_consistency_loss(pooled, smaller, form).item() == pytest.approx(expected, rel=1e-5)
    assert losses.image_consistency_loss(smaller, pooled, form).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("form", ["norm", "squared", "mean-square"])
def test_image_consistency_has_a_finite_slope_where_images_agree(form):
    feature = torch.randn(2, 3, 4, 4, requires_grad=True)
    value = losses.image_consistency_loss([feature], [feature.detach().clone()], form)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-5)
    assert feature.grad is not None
    assert not feature.grad.any()


# --- cycle segmentation (Eq. 19) ---------------------------------------------------------------------------------


def test_cycle_segmentation_is_the_cross_entropy_summed_over_scales():
    label = torch.randint(5, (2, 8, 12))
    logits = [torch.randn(2, 5, 8, 12), torch.randn(2, 5, 8, 12)]
    expected = F.cross_entropy(logits[0], label) + F.cross_entropy(logits[1], label)
    torch.testing.assert_close(losses.cycle_segmentation_loss(logits, label), expected)
    # unsure of two classes: log 2 per pixel
    even = losses.cycle_segmentation_loss([torch.zeros(1, 2, 4, 4)] * 3, torch.zeros(1, 4, 4, dtype=torch.int64))
    assert even.item() == pytest.approx(3 * 0.693147, rel=1e-5)


@pytest.mark.parametrize("size", [(12, 8), (6, 4), (3, 4), (5, 3)])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_cycle_segmentation_equals_the_cross_entropy_of_upsampled_logits(size, order):
    torch.manual_seed(0)
    label = torch.randint(5, (2, 12, 8))  # the last is unknown
    scores = torch.randn(2, 4, *size).contiguous(memory_format=order).requires_grad_()
    ours = losses.cycle_segmentation_loss([scores], label, ignored=4)
    theirs = F.cross_entropy(F.interpolate(scores, size=(12, 8)), label, ignore_index=4)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, scores) for loss in (ours, theirs)))


def test_cycle_segmentation_of_nothing_but_unknown_pixels_is_zero():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    value = losses.cycle_segmentation_loss([logits], torch.full((1, 4, 4), 3), ignored=3)
    value.backward()
    assert value.item() == 0
    assert not logits.grad.any()


def test_cycle_segmentation_is_computed_in_full_precision():
    label = torch.randint(3, (1, 8, 8))
    logits = torch.randn(1, 3, 8, 8)
    value = losses.cycle_segmentation_loss([logits.bfloat16()], label)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, F.cross_entropy(logits, label), atol=0.01, rtol=0.01)


# --- mode seeking ------------------------------------------------------------------------------------------------


def test_diversity_is_the_distance_of_noises_over_that_of_pictures():
    images = torch.stack([torch.full((3, 2, 2), value) for value in (0.0, 0.0, 0.5, 0.25)])
    noise = torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, 3.0], [1.0, 2.0]])
    # twins are (0, 2) and (1, 3): 2 / 0.5 and 0.5 / 0.25
    assert losses.diversity_loss(images, noise).item() == pytest.approx((4 + 2) / 2, rel=1e-3)


def test_diversity_is_finite_and_large_where_noise_changes_nothing():
    images = torch.zeros(2, 3, 2, 2, requires_grad=True)
    value = losses.diversity_loss(images, torch.tensor([[0.0], [1.0]]))
    value.backward()
    assert value.item() == pytest.approx(1e5)
    assert images.grad.isfinite().all()


# --- contrast of patches -----------------------------------------------------------------------------------------


def nce_by_hand(queries, keys, temperature):
    """One query at a time: its key against all other keys and a constant of -10."""
    total = 0.0
    for row, query in enumerate(queries):
        others = [float(query @ key) if index != row else -10.0 for index, key in enumerate(keys)]
        logits = torch.tensor([float(query @ keys[row]), *others]) / temperature
        total -= float(logits.log_softmax(0)[0])
    return total / len(queries)


def test_patch_nce_contrasts_with_patches_of_the_same_image_or_of_the_batch():
    torch.manual_seed(0)
    queries, keys = F.normalize(torch.randn(6, 4), dim=1), F.normalize(torch.randn(6, 4), dim=1)
    apart = (nce_by_hand(queries[:3], keys[:3], 0.2) + nce_by_hand(queries[3:], keys[3:], 0.2)) / 2
    assert losses.patch_nce_loss(queries, keys, images=2, temperature=0.2).item() == pytest.approx(apart, rel=1e-5)
    together = nce_by_hand(queries, keys, 0.2)
    assert losses.patch_nce_loss(queries, keys, temperature=0.2).item() == pytest.approx(together, rel=1e-5)


def test_patch_nce_has_no_gradient_for_keys():
    queries, keys = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    losses.patch_nce_loss(queries, keys).backward()
    assert keys.grad is None
    assert queries.grad.any()

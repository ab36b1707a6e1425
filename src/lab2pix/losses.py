"""What the players minimise: one function per equation of the paper, tensors in, tensors out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "ADVERSARIAL_TERMS",
    "PERCEPTUAL_WEIGHTS",
    "AdversarialTerm",
    "adversarial_loss",
    "blurred",
    "cycle_segmentation_loss",
    "diversity_loss",
    "feature_matching_loss",
    "foreground_mask",
    "hinge_fake",
    "hinge_generator",
    "hinge_real",
    "image_consistency_loss",
    "level_weights",
    "lsgan_fake",
    "lsgan_real",
    "masked_mean",
    "perceptual_loss",
    "vanilla_fake",
    "vanilla_real",
    "wasserstein_fake",
    "wasserstein_real",
]

AdversarialTerm = Callable[[Tensor], Tensor]
"""Turns a prediction map into a map of losses of the same shape."""

PERCEPTUAL_WEIGHTS: tuple[float, ...] = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
"""λ_M1 to λ_M5 of Eq. 28, shallow features first."""


# --- adversarial terms: the functions L^R_adv and L^F_adv of Eq. 10-13 -------------------------------------------


def hinge_real(prediction: Tensor) -> Tensor:
    """Return what a discriminator loses on a real image, hinge form, per prediction."""
    return F.relu(1 - prediction)


def hinge_fake(prediction: Tensor) -> Tensor:
    """Return what a discriminator loses on a fake image, hinge form, per prediction."""
    return F.relu(1 + prediction)


def hinge_generator(prediction: Tensor) -> Tensor:
    """Return what the generator loses on its image, hinge form, per prediction."""
    return -prediction


def vanilla_real(prediction: Tensor) -> Tensor:
    """Return `-log sigmoid(prediction)`: real images for a discriminator, generated ones for the generator."""
    return F.softplus(-prediction)


def vanilla_fake(prediction: Tensor) -> Tensor:
    """Return `-log(1 - sigmoid(prediction))`: fake images for a discriminator."""
    return F.softplus(prediction)


def lsgan_real(prediction: Tensor) -> Tensor:
    """Return `(prediction - 1)^2` (Mao et al., 2017): real images for a discriminator, generated for the generator."""
    return (prediction - 1).square()


def lsgan_fake(prediction: Tensor) -> Tensor:
    """Return `prediction^2`: fake images for a discriminator, least squares."""
    return prediction.square()


def wasserstein_real(prediction: Tensor) -> Tensor:
    """Return `-prediction` (Arjovsky et al., 2017): real images for a critic, generated ones for the generator."""
    return -prediction


def wasserstein_fake(prediction: Tensor) -> Tensor:
    """Return the prediction itself: fake images for a critic."""
    return prediction


ADVERSARIAL_TERMS: dict[str, tuple[AdversarialTerm, AdversarialTerm, AdversarialTerm]] = {
    "hinge": (hinge_generator, hinge_real, hinge_fake),
    "vanilla": (vanilla_real, vanilla_real, vanilla_fake),
    "lsgan": (lsgan_real, lsgan_real, lsgan_fake),
    "wgangp": (wasserstein_real, wasserstein_real, wasserstein_fake),
}
"""By form: what the generator loses on its image, the discriminator on a real one, and on a fake one.

`wgangp` has the name of Pix2Pix's and CycleGAN's option, which trains without a gradient penalty.
"""


# --- foreground enhancement (Eq. 9, 14) ---------------------------------------------------------------------------


def foreground_mask(foreground: Tensor, rate: float) -> Tensor:
    """Weigh foreground pixels `rate` times as much as background, with mean 1 in every image (Eq. 9).

    Args:
        foreground: `[N, H, W]` bool, true on foreground pixels.
        rate: T of the paper; 1 weighs all pixels alike.

    Returns:
        `[N, 1, H, W]` float32: P on background and T·P on foreground, P = (A + B) / (T·A + B).
    """
    area = foreground.flatten(1).sum(1).float()
    total = float(foreground[0].numel())
    background_weight = total / (rate * area + (total - area))
    weight = torch.where(foreground, rate, 1.0) * background_weight[:, None, None]
    return weight.unsqueeze(1)


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Average a map after weighing it with the mask, average-pooled to the map's size (Eq. 14).

    Args:
        values: `[N, 1, h, w]` losses per prediction.
        mask: `[N, 1, H, W]` weights (or `[1, 1, H, W]` for all alike), or None for ones.
    """
    if mask is None:
        return values.mean()
    return (values * F.adaptive_avg_pool2d(mask, (values.shape[-2], values.shape[-1]))).mean()


# --- adversarial loss over levels and scales (Eq. 10, 12, 13, 24, 26, 27) -----------------------------------------


def level_weights(levels: Sequence[int], reduction: Literal["mean", "released"] = "mean") -> list[list[float]]:
    """Return the weight of every level of every discriminator.

    Args:
        levels: how many levels each discriminator has, largest image first.
        reduction: `mean`: λ_l = 2^(1-l), divided by their sum, discriminators added (Eq. 24). `released`: the
            released code adds a discriminator's terms to a running sum and divides all of it by the newest weight
            total, if there is more than one level, and in the end by the number of discriminators.
    """
    weights = [[0.5**level for level in range(count)] for count in levels]
    if reduction == "mean":
        return [[weight / sum(row) for weight in row] for row in weights]
    for newest, row in enumerate(weights):
        if len(row) > 1:
            total = sum(row)
            for earlier in weights[: newest + 1]:
                earlier[:] = [weight / total for weight in earlier]
    return [[weight / len(weights) for weight in row] for row in weights]


def adversarial_loss(
    predictions: Sequence[Sequence[Tensor]],
    term: AdversarialTerm,
    weights: Sequence[Sequence[float]],
    mask: Tensor | None = None,
) -> Tensor:
    """Add up a term over scales and levels (Eq. 10, 12, 13; for V2 Eq. 24, 26, 27).

    Args:
        predictions: per discriminator, per level, `[N, 1, h, w]`.
        term: one of the functions above.
        weights: of the same shape, from `level_weights`.
        mask: foreground weights `[N, 1, H, W]`, or None where the paper uses none.
    """
    return torch.stack(
        [
            weight * masked_mean(term(prediction.float()), mask)
            for levels, row in zip(predictions, weights, strict=True)
            for prediction, weight in zip(levels, row, strict=True)
        ]
    ).sum()


# --- sharpness (Eq. 16, 30) ---------------------------------------------------------------------------------------


def blurred(image: Tensor, mode: Literal["nearest", "average"] = "nearest") -> Tensor:
    """Halve an image and double it again: a real image that a discriminator shall learn to call fake (Eq. 16, 30).

    Args:
        image: `[N, 3, H, W]`.
        mode: how it is halved, by the nearest pixel (released V2) or the average of four (released V1).
    """
    size = (image.shape[-2], image.shape[-1])
    small = F.avg_pool2d(image, 2, ceil_mode=True) if mode == "average" else F.interpolate(image, scale_factor=0.5)
    return F.interpolate(small, size=size)


# --- losses that compare with the true image (Eq. 28, 29) ---------------------------------------------------------


def perceptual_loss(generated: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Compare five features of a frozen network (Eq. 28, one scale).

    Args:
        generated: features of the generated image, shallow first, each `[N, C, h, w]`.
        real: those of the true image.

    Returns:
        Mean absolute differences, weighted 1/32, 1/16, 1/8, 1/4, 1.
    """
    return torch.stack(
        [
            weight * (ours.float() - theirs.float()).abs().mean()
            for weight, ours, theirs in zip(PERCEPTUAL_WEIGHTS, generated, real, strict=True)
        ]
    ).sum()


def feature_matching_loss(
    generated: Sequence[Sequence[Tensor]],
    real: Sequence[Sequence[Tensor]],
    reduction: Literal["mean", "released"] = "mean",
) -> Tensor:
    """Compare what each discriminator's layers see (Eq. 29).

    Args:
        generated: per discriminator its layers' outputs for the generated image.
        real: those for the true image.
        reduction: `mean`: mean over layers, discriminators added (Eq. 29); `released`: layers added, divided by the
            number of discriminators.
    """
    per_scale = [
        torch.stack([(ours.float() - theirs.float()).abs().mean() for ours, theirs in zip(fake, true, strict=True)])
        for fake, true in zip(generated, real, strict=True)
    ]
    if reduction == "released":
        return torch.stack([terms.sum() for terms in per_scale]).mean()
    return torch.stack([terms.mean() for terms in per_scale]).sum()


# --- losses of the unpaired setting (Eq. 18, 19) ------------------------------------------------------------------


def image_consistency_loss(
    pooled: Sequence[Tensor], smaller: Sequence[Tensor], form: Literal["norm", "squared", "mean-square"] = "norm"
) -> Tensor:
    """Compare what a frozen network sees in X_i+1, pooled to half its size, and in X_i (Eq. 18, one pair).

    Args:
        pooled: features of the pooled larger image, each `[N, C, h, w]`.
        smaller: those of the smaller image.
        form: `norm`: the L2 norm per image, as Eq. 18 has it; `squared`: its square; `mean-square`: the mean over
            all elements, as in the released code.

    Returns:
        The sum over layers, mean over the batch.
    """
    terms = []
    for ours, theirs in zip(pooled, smaller, strict=True):
        squares = (ours.float() - theirs.float()).square()
        if form == "mean-square":
            terms.append(squares.mean())
            continue
        per_image = squares.flatten(1).sum(1)
        # The root's slope has no bound at 0, where two images agree.
        terms.append((per_image if form == "squared" else (per_image + 1e-12).sqrt()).mean())
    return torch.stack(terms).sum()


def cycle_segmentation_loss(logits: Sequence[Tensor], label: Tensor, ignored: int | None = None) -> Tensor:
    """Return the cross entropy per pixel between what segmenters read in the images and the label map (Eq. 19).

    Args:
        logits: per scale `[N, classes, h, w]`; smaller ones are enlarged to the label map, pixel by pixel.
        label: `[N, H, W]` int64 ids.
        ignored: an id that stands for no class, whose pixels do not count.

    Returns:
        The sum over scales, each the mean over the pixels that count.
    """
    counts = torch.ones_like(label, dtype=torch.bool) if ignored is None else label != ignored
    target = label.masked_fill(~counts, 0)
    count = counts.sum().clamp(min=1)
    return torch.stack([-_read_right(scores.float(), target, counts) / count for scores in logits]).sum()


def _read_right(scores: Tensor, target: Tensor, counts: Tensor) -> Tensor:
    """Return the sum of logarithms of the probabilities that `[N, K, h, w]` give each pixel's class, where it counts.

    A smaller map's pixel stands for a block of the larger one's, which is why no map is enlarged.
    """
    height, width = target.shape[-2:]
    if height % scores.shape[-2] or width % scores.shape[-1]:
        scores = F.interpolate(scores, size=(height, width))
    down, across = scores.shape[-2:]
    axis = 1
    if not scores.is_contiguous():  # classes last, as they lie in memory, or softmax would copy the map
        scores, axis = scores.permute(0, 2, 3, 1), 3

    def by_block(x: Tensor) -> Tensor:
        """Put the pixels of each block, `[N, H, W]`, where the classes are."""
        blocks = x.view(len(x), down, height // down, across, width // across).transpose(2, 3).flatten(3)
        return blocks.movedim(3, axis)

    read = F.log_softmax(scores, axis).gather(axis, by_block(target))
    return torch.where(by_block(counts), read, 0).sum()


def diversity_loss(images: Tensor, noise: Tensor) -> Tensor:
    """Return how little noise changes pictures of one label map: mode seeking (Mao et al., 2019), not in the paper.

    Args:
        images: `[2k, 3, h, w]`; the second half are pictures of the first half's label maps.
        noise: `[2k, noise_dim]` that they were drawn from.

    Returns:
        The distance between two noises over that of their pictures (mean absolute differences), mean over the k twins.
    """
    (ours, theirs), (mine, yours) = images.float().chunk(2), noise.float().chunk(2)
    apart = (ours - theirs).abs().flatten(1).mean(1)
    return ((mine - yours).abs().mean(1) / (apart + 1e-5)).mean()

"""Loss functions, one per equation of the paper: tensors in, tensors out."""

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
    "sharpness_loss",
    "vanilla_fake",
    "vanilla_real",
    "wasserstein_fake",
    "wasserstein_real",
]

AdversarialTerm = Callable[[Tensor], Tensor]
"""Maps predictions to losses of the same shape."""

PERCEPTUAL_WEIGHTS: tuple[float, ...] = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
"""λ_M1 to λ_M5 of Eq. 28, shallow features first."""


# --- adversarial terms: the functions L^R_adv and L^F_adv of Eq. 10-13 -------------------------------------------


def hinge_real(prediction: Tensor) -> Tensor:
    """Return the hinge loss of a discriminator on real images, per prediction."""
    return F.relu(1 - prediction)


def hinge_fake(prediction: Tensor) -> Tensor:
    """Return the hinge loss of a discriminator on fake images, per prediction."""
    return F.relu(1 + prediction)


def hinge_generator(prediction: Tensor) -> Tensor:
    """Return the hinge loss of the generator on its images, per prediction."""
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
"""By form: the generator's loss, the discriminators' on real images, and theirs on fake images.

`wgangp` has the name of Pix2Pix's and CycleGAN's option, which trains without a gradient penalty.
"""


# --- foreground enhancement (Eq. 9, 14) ---------------------------------------------------------------------------


def foreground_mask(foreground: Tensor, rate: float) -> Tensor:
    """Return the foreground enhancement mask: weight `rate` of foreground to background, mean 1 per image (Eq. 9).

    Args:
        foreground: `[N, H, W]` bool, true on foreground pixels.
        rate: T of the paper; 1 gives all pixels the same weight.

    Returns:
        `[N, 1, H, W]` float32: P on background and T·P on foreground, P = (A + B) / (T·A + B).
    """
    area = foreground.flatten(1).sum(1).float()
    total = float(foreground[0].numel())
    background_weight = total / (rate * area + (total - area))
    weight = torch.where(foreground, rate, 1.0) * background_weight[:, None, None]
    return weight.unsqueeze(1)


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean of a map weighted by the mask, average-pooled to the map's size (Eq. 14).

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
    """Return the weighted sum of a term over scales and levels (Eq. 10, 12, 13; for V2 Eq. 24, 26, 27).

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
    """Return a blurred image, halved and doubled: a real image that discriminators learn to reject (Eq. 16, 30).

    Args:
        image: `[N, 3, H, W]`.
        mode: how it is halved: the nearest pixel (released V2) or the average of four (released V1).
    """
    size = (image.shape[-2], image.shape[-1])
    small = F.avg_pool2d(image, 2, ceil_mode=True) if mode == "average" else F.interpolate(image, scale_factor=0.5)
    return F.interpolate(small, size=size)


def sharpness_loss(
    real: Sequence[Sequence[Tensor]],
    blurred: Sequence[Sequence[Tensor]],
    terms: tuple[AdversarialTerm, AdversarialTerm],
    weights: Sequence[Sequence[float]],
    mask: Tensor | None = None,
) -> Tensor:
    """Return the sharpness enhancement loss: real images are real, blurred ones are fake (Eq. 16, 30).

    The equations halve the sum, as Eq. 11 does; here that is left to the caller for both.

    Args:
        real: predictions for real images, per discriminator, per level, `[N, 1, h, w]`.
        blurred: predictions for the same images, blurred.
        terms: of real and of fake images.
        weights: from `level_weights`.
        mask: foreground weights `[N, 1, H, W]` (Eq. 30), or None (Eq. 16).
    """
    real_term, fake_term = terms
    return adversarial_loss(real, real_term, weights, mask) + adversarial_loss(blurred, fake_term, weights, mask)


# --- losses that compare with the true image (Eq. 28, 29) ---------------------------------------------------------


def perceptual_loss(generated: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Return the perceptual loss: distance of five features of a frozen network (Eq. 28, one scale).

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
    """Return the feature matching loss: distance of the discriminators' features (Eq. 29).

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
    """Return the image consistency loss: distance of features of X_i+1, halved by pooling, and X_i (Eq. 18, one pair).

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
        # The gradient of the root is infinite at 0, where two images are equal.
        terms.append((per_image if form == "squared" else (per_image + 1e-12).sqrt()).mean())
    return torch.stack(terms).sum()


def cycle_segmentation_loss(logits: Sequence[Tensor], label: Tensor, ignored: int | None = None) -> Tensor:
    """Return the cycle segmentation loss: cross entropy of segmented images and the label map (Eq. 19).

    Args:
        logits: per scale `[N, classes, h, w]`; smaller ones are upsampled to the label map by nearest neighbor.
        label: `[N, H, W]` int64 ids.
        ignored: an id without a class, whose pixels are left out.

    Returns:
        The sum over scales, each the mean over the pixels that count; 0 if there are none.
    """
    ignore_index = -100 if ignored is None else ignored
    count = (label != ignore_index).sum().clamp(min=1)
    upsampled = [F.interpolate(scores.float(), size=label.shape[-2:]) for scores in logits]
    return torch.stack(
        [F.cross_entropy(scores, label, ignore_index=ignore_index, reduction="sum") / count for scores in upsampled]
    ).sum()


def diversity_loss(images: Tensor, noise: Tensor) -> Tensor:
    """Return the mode seeking loss, small where noise changes the images (Mao et al., 2019); not in the paper.

    Args:
        images: `[2k, 3, h, w]`; the second half has the label maps of the first half.
        noise: `[2k, noise_dim]` of these images.

    Returns:
        The distance of two noises over that of their images (mean absolute differences), mean over the k pairs.
    """
    (ours, theirs), (mine, yours) = images.float().chunk(2), noise.float().chunk(2)
    apart = (ours - theirs).abs().flatten(1).mean(1)
    return ((mine - yours).abs().mean(1) / (apart + 1e-5)).mean()

"""Loss functions: one per equation of the paper, and those of other methods and options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

AdversarialTerm = Callable[[Tensor], Tensor]
"""Elementwise loss: maps predictions to losses of the same shape."""

FeatureMatchingReduction = Literal["layer-mean", "scale-mean"]
"""Mean over layers, sum over scales; or sum over layers, mean over scales."""


class AdversarialTerms(NamedTuple):
    """Adversarial loss of the generator, of discriminators on real images, and on fake images."""

    generator: AdversarialTerm
    real: AdversarialTerm
    fake: AdversarialTerm


PERCEPTUAL_WEIGHTS: tuple[float, ...] = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
"""λ_M1 to λ_M5 of Eq. 28, shallow features first."""


# --- adversarial terms: L^R_adv and L^F_adv of Eq. 10-13 -------------------------------------------


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
    """Return `-log sigmoid(prediction)`, the loss of a discriminator on real images and of the generator on its own."""
    return F.softplus(-prediction)


def vanilla_fake(prediction: Tensor) -> Tensor:
    """Return `-log(1 - sigmoid(prediction))`, the loss of a discriminator on fake images."""
    return F.softplus(prediction)


def lsgan_real(prediction: Tensor) -> Tensor:
    """Return the least-squares loss `(prediction - 1)^2` for real images, or for the generator (Mao et al., 2017)."""
    return (prediction - 1).square()


def lsgan_fake(prediction: Tensor) -> Tensor:
    """Return the least-squares loss `prediction^2` of a discriminator on fake images."""
    return prediction.square()


def wasserstein_real(prediction: Tensor) -> Tensor:
    """Return the Wasserstein loss `-prediction` for real images, or for the generator (Arjovsky et al., 2017)."""
    return -prediction


def wasserstein_fake(prediction: Tensor) -> Tensor:
    """Return the Wasserstein loss of a critic on fake images, the prediction itself."""
    return prediction


ADVERSARIAL_TERMS = {
    "hinge": AdversarialTerms(hinge_generator, hinge_real, hinge_fake),
    "vanilla": AdversarialTerms(vanilla_real, vanilla_real, vanilla_fake),
    "lsgan": AdversarialTerms(lsgan_real, lsgan_real, lsgan_fake),
    "wgangp": AdversarialTerms(wasserstein_real, wasserstein_real, wasserstein_fake),
}
"""Adversarial losses by name.

`wgangp` is named after the option of Pix2Pix and CycleGAN, which applies no gradient penalty.
"""


# --- foreground enhancement (Eq. 9, 14) ---------------------------------------------------------------------------


def foreground_weights(foreground: Tensor, rate: float) -> Tensor:
    """Return the foreground enhancement mask, with mean 1 per image (Eq. 9).

    Args:
        foreground: `[N, H, W]` bool, true on foreground pixels.
        rate: T of the paper, the weight of foreground relative to background.

    Returns:
        `[N, 1, H, W]` float32: P on background and T·P on foreground, P = (A + B) / (T·A + B).
    """
    area = foreground.flatten(1).sum(1).float()
    total = float(foreground[0].numel())
    background_weight = total / (rate * area + (total - area))
    weight = torch.where(foreground, rate, 1.0) * background_weight[:, None, None]
    return weight.unsqueeze(1)


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean of a loss map, weighted by the mask pooled to the size of the map (Eq. 14).

    Args:
        values: `[N, 1, h, w]` losses per prediction.
        mask: `[N, 1, H, W]` weights (or `[1, 1, H, W]`, shared by all images); None: unweighted.
    """
    if mask is None:
        return values.mean()
    return (values * F.adaptive_avg_pool2d(mask, (values.shape[-2], values.shape[-1]))).mean()


# --- adversarial loss over levels and scales (Eq. 10, 12, 13, 24, 26, 27) -----------------------------------------


def level_weights(levels: Sequence[int], reduction: Literal["mean", "official"] = "mean") -> list[list[float]]:
    """Return the loss weight of each level of each discriminator.

    Args:
        levels: number of levels per discriminator, largest image first.
        reduction: `mean`: λ_l = 2^(1-l), divided by their sum per discriminator (Eq. 24). `official`, as in the code:
            after each discriminator with several levels, all weights so far are divided by the sum of its own; in the
            end all are divided by the number of discriminators.
    """
    weights = [[0.5**level for level in range(count)] for count in levels]
    if reduction == "mean":
        return [[weight / sum(row) for weight in row] for row in weights]
    for index, row in enumerate(weights):
        if len(row) > 1:
            total = sum(row)
            for earlier in weights[: index + 1]:
                earlier[:] = [weight / total for weight in earlier]
    return [[weight / len(weights) for weight in row] for row in weights]


def adversarial_loss(
    predictions: Sequence[Sequence[Tensor]],
    term: AdversarialTerm,
    weights: Sequence[Sequence[float]],
    mask: Tensor | None = None,
) -> Tensor:
    """Return the adversarial loss, summed over scales and levels (Eq. 10, 12, 13; for V2 Eq. 24, 26, 27).

    Args:
        predictions: per discriminator, per level, `[N, 1, h, w]`.
        term: elementwise loss, such as `hinge_real`.
        weights: per discriminator, per level, from `level_weights`.
        mask: foreground weights `[N, 1, H, W]`; None: unweighted.
    """
    return torch.stack(
        [
            weight * masked_mean(term(prediction.float()), mask)
            for levels, row in zip(predictions, weights, strict=True)
            for prediction, weight in zip(levels, row, strict=True)
        ]
    ).sum()


# --- sharpness (Eq. 16, 30) ---------------------------------------------------------------------------------------


def blur(image: Tensor, mode: Literal["nearest", "average"] = "nearest") -> Tensor:
    """Blur images by 2x downsampling and upsampling, as negatives for the sharpness loss (Eq. 16, 30).

    Args:
        image: `[N, 3, H, W]`.
        mode: downsampling by the nearest pixel (official V2) or by average pooling (official V1).
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
    """Return the sharpness enhancement loss, which treats blurred real images as fake (Eq. 16, 30).

    Without the factor 1/2 (as in Eq. 11) and λ2: see `lab2pix.methods.hierarchical_gan.HierarchicalGAN`.

    Args:
        real: predictions for real images, per discriminator, per level, `[N, 1, h, w]`.
        blurred: predictions for the same images after `blur`.
        terms: elementwise losses for real and for fake images.
        weights: from `level_weights`.
        mask: foreground weights `[N, 1, H, W]` (Eq. 30), or None (Eq. 16).
    """
    real_term, fake_term = terms
    return adversarial_loss(real, real_term, weights, mask) + adversarial_loss(blurred, fake_term, weights, mask)


# --- losses against the real image (Eq. 28, 29) ---------------------------------------------------------


def l1_distance(x: Tensor, y: Tensor) -> Tensor:
    """Return the mean absolute difference, computed in float32."""
    return (x.float() - y.float()).abs().mean()


def perceptual_loss(generated: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Return the perceptual loss: weighted L1 distance of features of a frozen network (Eq. 28, one scale).

    Args:
        generated: five features of the generated image, shallow first, each `[N, C, h, w]`.
        real: the same features of the real image.

    Returns:
        Mean absolute differences weighted by `PERCEPTUAL_WEIGHTS`, summed.
    """
    return torch.stack(
        [weight * l1_distance(*pair) for weight, *pair in zip(PERCEPTUAL_WEIGHTS, generated, real, strict=True)]
    ).sum()


def feature_matching_loss(
    generated: Sequence[Sequence[Tensor]],
    real: Sequence[Sequence[Tensor]],
    reduction: FeatureMatchingReduction = "layer-mean",
) -> Tensor:
    """Return the feature matching loss: L1 distance of discriminator features (Eq. 29).

    Args:
        generated: per discriminator, the features of its layers for the generated image.
        real: the same features for the real image.
        reduction: `layer-mean`: mean over layers, sum over discriminators (Eq. 29); `scale-mean`: sum over layers, mean
            over discriminators, as in the code of Lab2Pix, SPADE and TSIT.
    """
    per_scale = [
        torch.stack([l1_distance(*pair) for pair in zip(*layers, strict=True)])
        for layers in zip(generated, real, strict=True)
    ]
    if reduction == "scale-mean":
        return torch.stack([terms.sum() for terms in per_scale]).mean()
    return torch.stack([terms.mean() for terms in per_scale]).sum()


# --- losses of the unpaired setting (Eq. 18, 19) ------------------------------------------------------------------


def image_consistency_loss(
    pooled: Sequence[Tensor], smaller: Sequence[Tensor], form: Literal["norm", "squared", "mean-square"] = "norm"
) -> Tensor:
    """Return the image consistency loss: feature distance of pooled X_i+1 and X_i (Eq. 18, one pair of scales).

    Args:
        pooled: features of the pooled larger image, each `[N, C, h, w]`.
        smaller: the same features of the smaller image.
        form: `norm`: L2 norm per image, as in Eq. 18; `squared`: its square; `mean-square`: mean over all elements,
            as in the official code.

    Returns:
        Sum over layers of the mean over the batch.
    """
    terms = []
    for x, y in zip(pooled, smaller, strict=True):
        squares = (x.float() - y.float()).square()
        if form == "mean-square":
            terms.append(squares.mean())
            continue
        per_image = squares.flatten(1).sum(1)
        # Without an epsilon, the gradient of the square root is infinite at 0.
        terms.append((per_image if form == "squared" else (per_image + 1e-12).sqrt()).mean())
    return torch.stack(terms).sum()


def cycle_segmentation_loss(logits: Sequence[Tensor], label: Tensor, ignored: int | None = None) -> Tensor:
    """Return the cycle segmentation loss: cross-entropy of segmented images against the label map (Eq. 19).

    Args:
        logits: per scale, `[N, classes, h, w]`; upsampled to the label map by nearest neighbor.
        label: `[N, H, W]` int64 ids.
        ignored: id whose pixels are ignored; None: all count.

    Returns:
        Sum over scales of the mean over all pixels that are not ignored; 0 if there are none.
    """
    ignore_index = -100 if ignored is None else ignored
    count = (label != ignore_index).sum().clamp(min=1)
    upsampled = [F.interpolate(scores.float(), size=label.shape[-2:]) for scores in logits]
    return torch.stack(
        [F.cross_entropy(scores, label, ignore_index=ignore_index, reduction="sum") / count for scores in upsampled]
    ).sum()


def diversity_loss(images: Tensor, noise: Tensor) -> Tensor:
    """Return the mode seeking loss, which rewards images that vary with the noise (Mao et al., 2019; not in the paper).

    Args:
        images: `[2k, 3, h, w]`; both halves are generated from the same label maps.
        noise: `[2k, noise_dim]`, the noise of the images.

    Returns:
        Mean absolute difference of the noise divided by that of the images, averaged over the k pairs.
    """
    halves = images.float().chunk(2), noise.float().chunk(2)
    image_distance, noise_distance = ((x - y).abs().flatten(1).mean(1) for x, y in halves)
    return (noise_distance / (image_distance + 1e-5)).mean()


# --- contrastive loss of unpaired translation (Park et al., 2020) -------------------------------------------------


def patch_nce_loss(queries: Tensor, keys: Tensor, *, images: int = 1, temperature: float = 0.07) -> Tensor:
    """Return the PatchNCE loss: cross-entropy of finding the key of a query among all keys of its image.

    Args:
        queries: vectors of generated patches, `[images * P, D]`, image by image.
        keys: vectors of the patches at the same places of the inputs; they get no gradient.
        images: number of groups of rows whose keys are each other's negatives; 1: all rows are one group.
        temperature: divisor of the similarities.

    Returns:
        Mean over all queries.
    """
    query, key = (rows.float().view(images, -1, rows.shape[1]) for rows in (queries, keys.detach()))
    positive = (query * key).sum(2, keepdim=True)
    negative = query @ key.transpose(1, 2)
    own = torch.eye(negative.shape[1], dtype=torch.bool, device=negative.device)
    logits = torch.cat([positive, negative.masked_fill(own, -10.0)], 2).flatten(0, 1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))


# --- image encoders -----------------------------------------------------------------------------------------------


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of N(mean, exp(log_variance)) from N(0, 1), summed over all elements.

    The sum grows with the batch, as in SPADE's code.

    Args:
        mean: `[N, C]`.
        log_variance: `[N, C]`.
    """
    mean, log_variance = mean.float(), log_variance.float()
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum()

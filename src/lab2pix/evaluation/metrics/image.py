"""Image metrics: PSNR, SSIM and LPIPS against a photo (5.3), and diversity."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from lab2pix.errors import DataError, WeightsError
from lab2pix.evaluation.batching import map_chunks
from lab2pix.utils.extras import import_extra
from lab2pix.utils.pretrained import WeightsFile, read_weights

__all__ = [
    "LPIPS",
    "LPIPS_NETS",
    "PictureDistance",
    "checkerboard_ratio",
    "diversity",
    "gradients_by_parity",
    "pixel_distance",
    "psnr",
    "ssim",
]

PictureDistance: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Distance `[N]` of two batches `[N, 3, H, W]` uint8, image by image."""

SSIM_WINDOW = 11
"""Side of SSIM's Gaussian window in pixels: sigma 1.5, truncated at 3.5 sigma."""
_SIGMA = 1.5
LPIPS_NETS = {
    "alex": WeightsFile(
        "AlexNet",
        "alexnet-owt-7be5be79.pth",
        "7be5be79",
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        setting="--lpips-weights",
    ),
    "vgg": WeightsFile(
        "VGG16",
        "vgg16-397923af.pth",
        "397923af",
        "https://download.pytorch.org/models/vgg16-397923af.pth",
        setting="--lpips-weights",
    ),
}
"""Networks of LPIPS, and their ImageNet weights."""


def psnr(generated: Tensor, real: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio in dB, `[N]` float64, of `[N, 3, H, W]` uint8 (equal: infinity)."""
    return map_chunks(_psnr, (generated.shape[-2], generated.shape[-1]), generated.device, generated, real)


def _psnr(generated: Tensor, real: Tensor) -> Tensor:
    error = (generated.double() - real.double()).square().flatten(1).mean(1)
    return 10 * torch.log10(255.0**2 / error)


def ssim(generated: Tensor, real: Tensor) -> Tensor:
    """Return the structural similarity of each image, `[N]` float64: Gaussian window, mean over channels (Wang et al.).

    Equal to scikit-image with `gaussian_weights=True, sigma=1.5, use_sample_covariance=False`: only windows within the
    image count.

    Images are `[N, 3, H, W]` uint8.

    Raises:
        DataError: images smaller than the window.
    """
    if min(generated.shape[-2:]) < SSIM_WINDOW:
        raise DataError(
            f"images of {generated.shape[-2]}x{generated.shape[-1]} pixels (height x width) are smaller than SSIM's "
            f"window; give images of at least {SSIM_WINDOW}x{SSIM_WINDOW}"
        )
    return map_chunks(_ssim, (generated.shape[-2], generated.shape[-1]), generated.device, generated, real)


def _ssim(generated: Tensor, real: Tensor) -> Tensor:
    # Values around middle gray have smaller squares, hence smaller rounding errors; variances are the same.
    x, y = generated.float() - 128, real.float() - 128
    mean_x, mean_y, xx, yy, xy = (_windowed(part) for part in (x, y, x * x, y * y, x * y))
    covariance = xy - mean_x * mean_y
    variances = xx - mean_x.square() + yy - mean_y.square()
    mean_x, mean_y = mean_x + 128, mean_y + 128
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    likeness = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    likeness /= (mean_x.square() + mean_y.square() + c1) * (variances + c2)
    return likeness.flatten(1).double().mean(1)


def _windowed(values: Tensor) -> Tensor:
    """Filter with the separable Gaussian window without padding: `[..., H - 10, W - 10]` of `[..., H, W]`.

    A weighted sum of shifted copies along each axis is ten times as fast as a convolution on a CPU.
    """
    reach = SSIM_WINDOW // 2
    weights = torch.exp(-torch.arange(-reach, 1, dtype=torch.float64).square() / (2 * _SIGMA**2))
    weights /= 2 * weights.sum() - weights[-1]
    for side in (-1, -2):
        count = values.shape[side] - 2 * reach
        summed = values.narrow(side, reach, count) * float(weights[-1])
        for shift, weight in enumerate(weights[:-1].tolist()):
            summed.add_(values.narrow(side, shift, count), alpha=weight)
            summed.add_(values.narrow(side, 2 * reach - shift, count), alpha=weight)
        values = summed
    return values


class LPIPS:
    """Learned perceptual distance (Zhang et al.), with torchmetrics' linear weights.

    Args:
        net: the network.
        weights: its ImageNet weights; None: the torch hub cache, downloaded where missing.

    Raises:
        ConfigError: the extra `metrics` is not installed.
        WeightsError: the weights are missing, or have another hash.
    """

    def __init__(self, net: Literal["alex", "vgg"], weights: str | Path | None = None) -> None:
        lpips = import_extra("torchmetrics.functional.image.lpips", "metrics", "LPIPS")
        source = LPIPS_NETS[net]
        file = source.find(weights)
        self.name = f"lpips_{net}"
        self.network = lpips._LPIPS(pretrained=True, net=net, pnet_rand=True)
        own = self.network.net.state_dict()
        try:
            state = read_weights(file)
            # Its slices keep torchvision's indices: slice2.5.weight is features.5.weight.
            self.network.net.load_state_dict({key: state[f"features.{key.partition('.')[2]}"] for key in own})
        except Exception as error:  # unpickling raises any error on damaged files
            raise WeightsError(
                f"{file} is not a file of {source.name}'s weights; replace it by {source.file}"
            ) from error
        self.device = torch.device("cpu")

    def to(self, device: torch.device) -> None:
        """Move to a device."""
        self.network.to(device)
        self.device = device

    @torch.inference_mode()
    def __call__(self, generated: Tensor, real: Tensor) -> Tensor:
        """Return the distance of each image, `[N]` float64, of `[N, 3, H, W]` uint8."""
        a, b = (images.to(self.device).float() / 127.5 - 1 for images in (generated, real))
        found: Tensor = self.network(a, b)
        return found.flatten().double().cpu()


def pixel_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean absolute difference of each image, `[N]` float64, in levels of 0 to 255."""
    return map_chunks(_pixel_distance, (a.shape[-2], a.shape[-1]), a.device, a, b)


def _pixel_distance(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() - b.double()).abs().flatten(1).mean(1)


def diversity(samples: Tensor, distance: PictureDistance) -> Tensor:
    """Return the mean distance between images of one label map.

    Args:
        samples: `[S, N, 3, H, W]` uint8, S >= 2 images of each of N label maps.
        distance: distance of two images.

    Returns:
        `[N]` float64, the mean over all pairs of samples of each label map.
    """
    pairs = [distance(samples[i], samples[j]) for i, j in combinations(range(len(samples)), 2)]
    return torch.stack(pairs).mean(0)


def gradients_by_parity(images: Tensor) -> Tensor:
    """Return absolute differences of neighboring pixels, summed over the images: `[2, 2]` float64.

    The first index is the direction, along rows or along columns; the second one is the parity of the first of the two
    pixels, each with as many differences. Images are `[N, 3, H, W]` of any type.
    """
    images = images.cpu().float()
    steps = images.diff(dim=-1).abs(), images.diff(dim=-2).abs().transpose(-1, -2)
    sums = [
        step[..., parity : step.shape[-1] // 2 * 2 : 2].sum(dtype=torch.float64) for step in steps for parity in (0, 1)
    ]
    return torch.stack(sums).view(2, 2)


def checkerboard_ratio(gradients: Tensor) -> float:
    """Return the evenness of gradients at even and at odd pixels: 1 for photos, lower with checkerboard artifacts.

    The smaller sum of gradients divided by the larger one, averaged over the two directions. Strided convolutions and
    nearest upsampling leave patterns of two pixels (Odena et al., 2016), which few other scores show.

    Args:
        gradients: sum of `gradients_by_parity` over a set of images.
    """
    ratios = gradients.amin(1) / gradients.amax(1)
    return float(ratios.nan_to_num(1.0).mean())  # images of one color have no gradients

"""Scores of a picture against the photo it should be (PSNR, SSIM, LPIPS; 5.3), and how different pictures are."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from lab2pix.errors import DataError, WeightsError
from lab2pix.evaluation.batching import map_chunks
from lab2pix.utils.pretrained import WeightsFile, read_weights

__all__ = ["LPIPS", "LPIPS_NETS", "PictureDistance", "diversity", "pixel_distance", "psnr", "ssim"]

PictureDistance: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Compares `[N, 3, H, W]` uint8 pictures one by one: `[N]`."""

SSIM_WINDOW = 11
"""Side of SSIM's Gaussian window in pixels: sigma 1.5, cut off at 3.5 sigma."""
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
"""Networks that LPIPS can look through, and their ImageNet weights."""


def psnr(generated: Tensor, real: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio by picture, `[N]` float64, in dB of 8-bit pictures.

    Args:
        generated: `[N, 3, H, W]` uint8.
        real: likewise.

    Returns:
        Infinity where both are equal.
    """
    return map_chunks(_psnr, (generated.shape[-2], generated.shape[-1]), generated.device, generated, real)


def _psnr(generated: Tensor, real: Tensor) -> Tensor:
    error = (generated.double() - real.double()).square().flatten(1).mean(1)
    return 10 * torch.log10(255.0**2 / error)


def ssim(generated: Tensor, real: Tensor) -> Tensor:
    """Return the structural similarity by picture, `[N]` float64: Gaussian window, mean over colours (Wang et al.).

    As scikit-image computes it with `gaussian_weights=True, sigma=1.5, use_sample_covariance=False`: pixels whose
    window reaches over the border do not count.

    Args:
        generated: `[N, 3, H, W]` uint8.
        real: likewise.

    Raises:
        DataError: pictures smaller than the window.
    """
    if min(generated.shape[-2:]) < SSIM_WINDOW:
        raise DataError(
            f"pictures of {generated.shape[-1]}x{generated.shape[-2]} pixels (width x height) are smaller than SSIM's "
            f"window; give pictures of at least {SSIM_WINDOW}x{SSIM_WINDOW}"
        )
    return map_chunks(_ssim, (generated.shape[-2], generated.shape[-1]), generated.device, generated, real)


def _ssim(generated: Tensor, real: Tensor) -> Tensor:
    # Around middle gray squares are a quarter as large, and as much more exact; variances do not depend on it.
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
    """Return means under the Gaussian window, of whole windows: `[..., H - 10, W - 10]` of `[..., H, W]`.

    Shifted copies are summed up along each side in turn, each weight used for both pixels that have it: on a processor
    ten times as fast as a convolution with the window.
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
        net: the network to look through.
        weights: its ImageNet weights; None: the torch hub cache, filled from the net if need be.

    Raises:
        WeightsError: the weights are missing, or not what their hash says.
    """

    def __init__(self, net: Literal["alex", "vgg"], weights: str | Path | None = None) -> None:
        from torchmetrics.functional.image.lpips import _LPIPS

        source = LPIPS_NETS[net]
        file = source.find(weights)
        self.name = f"lpips_{net}"
        self.network = _LPIPS(pretrained=True, net=net, pnet_rand=True)
        own = self.network.net.state_dict()
        try:
            state = read_weights(file)
            # Its slices keep torchvision's numbers: slice2.5.weight is features.5.weight.
            self.network.net.load_state_dict({key: state[f"features.{key.partition('.')[2]}"] for key in own})
        except Exception as error:  # an unpickler answers junk with whatever it trips over
            raise WeightsError(f"{file} holds no weights of {source.name}; put {source.file} in its place") from error
        self.device = torch.device("cpu")

    def to(self, device: torch.device) -> None:
        """Compute on a device."""
        self.network.to(device)
        self.device = device

    @torch.inference_mode()
    def __call__(self, generated: Tensor, real: Tensor) -> Tensor:
        """Return the distance by picture, `[N]` float64, of `[N, 3, H, W]` uint8."""
        a, b = (pictures.to(self.device).float() / 127.5 - 1 for pictures in (generated, real))
        found: Tensor = self.network(a, b)
        return found.flatten().double().cpu()


def pixel_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean absolute difference by picture, `[N]` float64, in levels of 0 to 255."""
    return map_chunks(_pixel_distance, (a.shape[-2], a.shape[-1]), a.device, a, b)


def _pixel_distance(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() - b.double()).abs().flatten(1).mean(1)


def diversity(samples: Tensor, distance: PictureDistance) -> Tensor:
    """Return how far apart pictures of one label map are.

    Args:
        samples: `[S, N, 3, H, W]` uint8, S >= 2 pictures of each of N label maps.
        distance: compares two pictures.

    Returns:
        `[N]` float64, the mean over all pairs of a label map's pictures.
    """
    pairs = [distance(samples[i], samples[j]) for i, j in combinations(range(len(samples)), 2)]
    return torch.stack(pairs).mean(0)

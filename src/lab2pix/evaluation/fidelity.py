"""Scores of a picture against the photo it should be (PSNR, SSIM, LPIPS; 5.3), and how different pictures are."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from lab2pix.errors import DataError, WeightsError
from lab2pix.pretrained import WeightsFile, read_weights

__all__ = ["LPIPS", "LPIPS_NETS", "PictureDistance", "diversity", "pixel_distance", "psnr", "ssim"]

PictureDistance: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Compares `[N, 3, H, W]` uint8 pictures one by one: `[N]`."""

SSIM_WINDOW = 11
"""Side of SSIM's Gaussian window in pixels: sigma 1.5, cut off at 3.5 sigma."""
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
    _, full = structural_similarity_index_measure(
        generated.float(),
        real.float(),
        sigma=1.5,
        kernel_size=SSIM_WINDOW,
        reduction="none",
        data_range=255.0,
        return_full_image=True,
    )
    edge = SSIM_WINDOW // 2
    inner: Tensor = full[..., edge:-edge, edge:-edge]
    return inner.double().flatten(1).mean(1)


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

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from lab2pix.errors import DataError, WeightsError
from lab2pix.evaluation.metrics import image
from lab2pix.evaluation.metrics.image import (
    LPIPS,
    checkerboard_ratio,
    diversity,
    gradients_by_parity,
    pixel_distance,
    psnr,
    ssim,
)


def pictures(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(4, 3, 5, 5, generator=random), size, mode="bilinear") * 255
    noisy = smooth * 0.8 + torch.randn(smooth.shape, generator=random) * 20
    return smooth.byte(), noisy.clamp(0, 255).byte()


@pytest.mark.parametrize("size", [(11, 11), (37, 64), (128, 96)])
def test_psnr_and_ssim_are_those_of_scikit_image(size: tuple[int, int]) -> None:
    a, b = pictures(size)
    for index in range(4):
        x, y = (part[index].permute(1, 2, 0).numpy() for part in (a, b))
        assert float(psnr(a, b)[index]) == pytest.approx(peak_signal_noise_ratio(y, x, data_range=255), abs=1e-6)
        how = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        wanted = structural_similarity(x, y, channel_axis=2, data_range=255, **how)
        assert float(ssim(a, b)[index]) == pytest.approx(wanted, abs=1e-3)


def test_psnr_and_ssim_of_equal_images() -> None:
    a, _ = pictures((16, 16))
    assert torch.isinf(psnr(a, a)).all()
    torch.testing.assert_close(ssim(a, a), torch.ones(4, dtype=torch.float64))


def test_ssim_of_images_smaller_than_the_window() -> None:
    a, b = pictures((10, 30))
    with pytest.raises(DataError, match=r"10x30 pixels .* smaller than SSIM's window"):
        ssim(a, b)


def test_diversity_is_the_mean_over_pairs() -> None:
    samples = torch.stack([torch.full((2, 3, 4, 4), value, dtype=torch.uint8) for value in (0, 10, 40)])
    assert diversity(samples, pixel_distance).tolist() == [pytest.approx(80 / 3)] * 2


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 10)])
def test_checkerboard_ratio_of_a_known_pattern(height: int, width: int) -> None:
    row = torch.tensor([0, 40, 50, 90, 100, 140, 150, 190, 200, 240], dtype=torch.uint8)[:width]  # steps of 40 and 10
    stripes = row.expand(2, 3, height, width)
    gradients = gradients_by_parity(stripes)
    assert gradients[0, 0] == 4 * gradients[0, 1] > 0
    assert not gradients[1].any()
    assert checkerboard_ratio(gradients) == (0.25 + 1) / 2  # along rows, and none along columns
    shifted = stripes.roll(1, -1)[..., 1:]
    assert checkerboard_ratio(gradients_by_parity(shifted)) == (0.25 + 1) / 2
    assert torch.equal(gradients_by_parity(stripes.transpose(-1, -2)), gradients.flip(0))
    even = torch.arange(0, 250, 25, dtype=torch.uint8)[:width].expand(2, 3, height, width)
    assert checkerboard_ratio(gradients_by_parity(even)) == 1
    parts = sum(gradients_by_parity(stripes[index : index + 1]) for index in range(2))
    assert torch.equal(parts, gradients)


@pytest.mark.slow
def test_lpips_is_torchmetrics_with_the_given_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = torchvision.models.alexnet()
    file = tmp_path / "alexnet.pth"
    torch.save(network.state_dict(), file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setitem(image.LPIPS_NETS, "alex", replace(image.LPIPS_NETS["alex"], sha256=digest))
    distance = LPIPS("alex", file)
    a, b = pictures((64, 64))
    found = distance(a, b)
    assert distance.name == "lpips_alex"
    assert found.shape == (4,)
    assert torch.all(found > 0)
    torch.testing.assert_close(distance(a, a), torch.zeros(4, dtype=torch.float64))
    first = distance.network.net.slice1[0].weight
    assert torch.equal(first, network.features[0].weight)
    assert np.isfinite(found.numpy()).all()


def test_lpips_offline_says_which_file_to_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(WeightsError, match=r"alexnet-owt-7be5be79\.pth.*--lpips-weights=FILE"):
        LPIPS("alex")
    with pytest.raises(WeightsError, match="which is not a file"):
        LPIPS("vgg", tmp_path / "gone.pth")

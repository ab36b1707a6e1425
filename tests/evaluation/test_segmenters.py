"""Segmenters: trained here, exported, or from the Hugging Face hub."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.config.schema import DataConfig, ScenesConfig
from lab2pix.data.build import build_dataset
from lab2pix.data.files import read_image
from lab2pix.data.label_maps import read_label
from lab2pix.data.transforms import float_to_uint8
from lab2pix.errors import ConfigError, LabelError, WeightsError
from lab2pix.evaluation.segmenters import build_network, load_segmenter
from lab2pix.labels.space import LabelSpace
from lab2pix.training.segmenter import SegmenterSettings, _loss, pair_weights, train_segmenter
from tests.helpers.commands import Run
from tests.helpers.images import SPACE, ColorReader, Folders, export


def real_pair(folders: Folders) -> tuple[Tensor, Tensor]:
    return read_image(folders.real / "a.png")[None], read_label(folders.labels / "a.png", SPACE)[None]


# --- exported ----------------------------------------------------------------------------------------------------


def test_an_exported_program_reads_what_its_network_reads(folders: Folders, reader: Path) -> None:
    picture, label = real_pair(folders)
    segmenter = load_segmenter(reader, SPACE)
    assert torch.equal(segmenter(picture, (32, 48)), label)
    # Another size is enlarged to, and another order of channels turned back.
    assert segmenter(picture, (64, 96)).shape == (1, 64, 96)


def test_channels_are_mapped_by_name_by_id_and_to_nothing(folders: Folders, tmp_path: Path) -> None:
    picture, label = real_pair(folders)
    order = torch.randperm(SPACE.num_classes, generator=torch.Generator().manual_seed(0)).tolist()

    class Shuffled(ColorReader):
        def forward(self, image: Tensor) -> Tensor:
            logits = super().forward(image)[:, order]
            return torch.cat([logits, torch.full_like(logits[:, :1], -9)], 1)

    classes = [SPACE.names[place] if place % 2 else place for place in order]
    file = export(Shuffled(), tmp_path / "shuffled.pt2", {"size": [32, 48], "classes": [*classes, None]})
    assert torch.equal(load_segmenter(file, SPACE)(picture, (32, 48)), label)
    described = load_segmenter(file, SPACE).describe()
    assert described["classes"] == [*order, -1]


def test_a_channel_that_means_nothing_is_read_as_none_of_the_classes(tmp_path: Path) -> None:
    class Last(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            none = image[:, :1] * 0
            return torch.cat([none.expand(-1, SPACE.num_classes, -1, -1), none + 1], 1)

    file = export(Last(), tmp_path / "last.pt2", {"size": [32, 48], "classes": [*SPACE.names, None]})
    read = load_segmenter(file, SPACE)(torch.zeros(1, 3, 32, 48, dtype=torch.uint8), (32, 48))
    assert torch.equal(read, torch.full((1, 32, 48), -1))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["sky", "moon"], "has no class 'moon'"),
        ([99], "has ids 0 to"),
        ([0, 1, None], f"predicts 2 of the {SPACE.num_classes} classes that label space 'scenes' scores"),
    ],
)
def test_a_segmenter_of_other_classes_is_refused(
    classes: list[object], message: str, reader: Path, tmp_path: Path
) -> None:
    file = tmp_path / "other.pt2"
    file.write_bytes(reader.read_bytes())
    file.with_suffix(".json").write_text(json.dumps({"size": [32, 48], "classes": classes}))
    with pytest.raises(LabelError, match=message):
        load_segmenter(file, SPACE)


def test_a_list_of_classes_that_is_too_long_is_refused(reader: Path, tmp_path: Path) -> None:
    file = tmp_path / "other.pt2"
    file.write_bytes(reader.read_bytes())
    file.with_suffix(".json").write_text(json.dumps({"size": [32, 48], "classes": [*SPACE.names, None, None]}))
    segmenter = load_segmenter(file, SPACE)
    with pytest.raises(LabelError, match=rf"returns \[1, {SPACE.num_classes}, 32, 48\], but other.json names"):
        segmenter(torch.zeros(1, 3, 32, 48, dtype=torch.uint8), (32, 48))


def test_cityscapes_needs_its_nineteen_classes_only_as_the_guide_has_them(tmp_path: Path) -> None:
    space = LabelSpace.load("cityscapes")
    scored = [name for name, target in zip(space.names, space.evaluation or (), strict=True) if target is not None]
    guide = Path(__file__).parents[2] / "docs" / "guide" / "segmenters.md"
    settings = json.loads(guide.read_text().split("```json")[1].split("```")[0])
    assert settings["classes"] == scored

    class Nineteen(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            weights = torch.arange(19.0).view(19, 1, 1, 1).expand(-1, 3, -1, -1)
            return nn.functional.conv2d(image, weights)

    file = export(Nineteen(), tmp_path / "drn.pt2", {**settings, "size": [32, 48]})
    read = load_segmenter(file, space)(torch.full((1, 3, 32, 48), 250, dtype=torch.uint8), (64, 64))
    assert read.unique().tolist() == [space.names.index(scored[-1])]


def scenes() -> DataConfig:
    counts = ScenesConfig(train_count=64, val_count=8)
    return DataConfig(format="scenes", label_space="scenes", size=(64, 64), scenes=counts)


# --- trained -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segmenter trained for some steps on scenes."""
    folder = tmp_path_factory.mktemp("segmenter") / "unet"
    settings = SegmenterSettings(steps=40, batch_size=8, encoder="tu-mobilenetv3_small_050")
    result = train_segmenter(scenes(), folder, settings, device="cpu")
    assert result.folder == folder
    return folder


@pytest.mark.slow
def test_a_head_on_the_frozen_backbone_learns_and_is_stored_alone(tmp_path: Path) -> None:
    settings = SegmenterSettings("fpn-head", "efficientnet-lite0", steps=30, batch_size=8)
    result = train_segmenter(scenes(), tmp_path / "head", settings, device="cpu")
    info = json.loads((result.folder / "segmenter.json").read_text())
    assert info["training"]["losses"][-1] < 0.7 * info["training"]["losses"][0]
    assert all(name.startswith("head.") for name in load_file(result.folder / "model.safetensors"))
    space = LabelSpace.load("scenes")
    pair = build_dataset(scenes(), "val", space, 0, paired=True)[(0, 0)]
    read = load_segmenter(result.folder, space)(float_to_uint8(pair["image"])[None], (64, 64))
    right = read[0] == pair["label"]
    assert right.float().mean() > 0.4  # a guess among the classes would be right in a tenth of the pixels


def test_a_head_takes_no_encoder_weights() -> None:
    with pytest.raises(ConfigError, match="omit --encoder-weights"):
        build_network("fpn-head", "efficientnet-lite0", 3, "imagenet")


@pytest.mark.slow
def test_training_learns_and_says_how_well(trained: Path) -> None:
    info = json.loads((trained / "segmenter.json").read_text())
    losses = info["training"]["losses"]
    assert losses[-1] < 0.7 * losses[0]
    assert info["held_out"]["pairs"] == 8
    # A guess among the classes would be right in a tenth of the pixels.
    assert info["held_out"]["ppa"] > 0.3
    assert 0 < info["held_out"]["ciou"] <= info["held_out"]["pca"] < 1
    assert info["size"] == [64, 64]


@pytest.mark.slow
def test_trained_segmenter_reads_as_well_as_it_was_scored(trained: Path) -> None:
    held_out = build_dataset(scenes(), "val", SPACE, 0, paired=True)
    segmenter = load_segmenter(trained, SPACE)
    samples = [held_out[index] for index in range(8)]
    read = segmenter(torch.stack([float_to_uint8(sample["image"]) for sample in samples]), (64, 64))
    right = (read == torch.stack([sample["label"] for sample in samples])).double().mean()
    assert float(right) == pytest.approx(
        json.loads((trained / "segmenter.json").read_text())["held_out"]["ppa"], abs=1e-3
    )
    assert segmenter.describe()["architecture"] == "unet"


def test_a_trained_segmenter_for_other_classes_is_refused(trained: Path) -> None:
    with pytest.raises(LabelError, match=r"classes of label space 'scenes', but the label maps have the 12 of"):
        load_segmenter(trained, LabelSpace.load("facades"))


@pytest.mark.slow
def test_damaged_and_missing_segmenters_are_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no segmenter .*nowhere"):
        load_segmenter(tmp_path / "nowhere", SPACE)
    with pytest.raises(WeightsError, match="does not hold a complete segmenter"):
        load_segmenter(tmp_path, SPACE)
    (tmp_path / "segmenter.json").write_text((trained / "segmenter.json").read_text())
    weights = load_file(trained / "model.safetensors")
    weights.pop("segmentation_head.0.weight")
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"does not hold a complete segmenter .*Missing key"):
        load_segmenter(tmp_path, SPACE)


def test_pairs_are_weighted_by_their_subfolder() -> None:
    names = ("synthetic/a", "town/b", "synthetic", "synthetics/c")
    assert pair_weights(names, (("synthetic", 0.5), ("town", 0))).tolist() == [0.5, 0.0, 1.0, 1.0]
    assert pair_weights(names, ()).tolist() == [1.0] * 4


def test_pairs_without_weight_teach_nothing() -> None:
    """A second pair of weight 0 changes no loss, but one of weight 1 does."""
    network = torch.nn.Conv2d(3, SPACE.num_classes, 1)
    batch = Batch(torch.arange(2 * 32 * 32).view(2, 32, 32) % 5, torch.rand(2, 3, 32, 32), names=("a", "synthetic/b"))
    alone = _loss(network, batch[:1], (32, 32), SPACE, SegmenterSettings())
    both = [
        _loss(network, batch, (32, 32), SPACE, SegmenterSettings(weights=(("synthetic", weight),)))
        for weight in (0.0, 1.0)
    ]
    torch.testing.assert_close(both[0], alone)
    assert abs(both[1] - alone) > 1e-4


@pytest.mark.slow
def test_training_on_pairs_of_files(run: Run, tmp_path: Path) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    for split, seed in (("train", 0), ("val", 1)):
        assert run("data", "scenes", tmp_path / split, "--count", 4, "--size", "32x32", "--seed", seed)[0] == 0
        for kind in ("images", "labels"):
            (root / kind).mkdir(parents=True, exist_ok=True)
            (tmp_path / split / kind).rename(root / kind / split)
    words = ("segmenter", "train", "--format", "folder", "--root", root, "--label-space", "scenes", "--size", "32x32")
    small = (
        "--weight",
        "town=0.5",
        "--steps",
        20,
        "--batch-size",
        2,
        "--encoder",
        "tu-mobilenetv3_small_050",
        "--device",
        "cpu",
    )
    code, output, errors = run(*words, *small, "--out", out)
    assert code == 0, errors
    assert "ciou" in output
    assert load_segmenter(out, SPACE).name == "out"
    assert run(*words, *small, "--out", out)[0] == 2
    assert run(*words, *small, "--out", out, "--overwrite")[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--weight", "synthetic"), "--weight is 'synthetic'; give a subfolder and a number from 0"),
        (("--weight", "synthetic=-1"), "--weight is 'synthetic=-1'"),
        (("--size", "40x64"), "must be multiples of 32; such as 32x64"),
        (("--encoder", "resnet19"), "no segmenter 'unet' on encoder 'resnet19' can be built"),
        (("--architecture", "vnet"), "no segmenter 'vnet'"),
        (("--format", "folder"), "has no default label space; set --label"),
    ],
)
def test_segmenter_that_cannot_be_trained_is_refused(
    words: tuple[str, ...], message: str, run: Run, tmp_path: Path
) -> None:
    format = () if "--format" in words else ("--format", "scenes")
    code, _, errors = run("segmenter", "train", *format, *words, "--steps", 20, "--out", tmp_path / "out")
    assert code == 2, errors
    assert message in errors
    assert len(errors.strip().splitlines()) == 1


def test_weights_that_cannot_be_fetched_are_one_whole_sentence(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import segmentation_models_pytorch as smp

    def offline(*_: object, **__: object) -> None:
        logging.getLogger("huggingface_hub.utils").warning("Retrying in 8s")
        raise FileNotFoundError("we looked here\nand there, " + "and elsewhere " * 40)

    monkeypatch.setattr(smp, "create_model", offline)
    words = ("--format", "scenes", "--encoder-weights", "imagenet", "--steps", 20, "--out", tmp_path / "out")
    code, _, errors = run("segmenter", "train", *words)
    assert code == 2, errors
    [line] = errors.strip().splitlines()
    assert line.endswith("or omit --encoder-weights")
    assert "'imagenet' of encoder 'resnet18' are not in the cache and could not be downloaded" in line
    assert caplog.records == []
    assert not (tmp_path / "out").exists()


# --- Hugging Face ------------------------------------------------------------------------------------------------


@pytest.fixture
def hub_model(tmp_path: Path) -> Path:
    """A tiny SegFormer with the label space's names in another spelling, saved as the hub would have it."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    names = [name.replace(" ", "_").upper() for name in reversed(SPACE.names)]
    config = transformers.SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 8], patch_sizes=[3, 3], strides=[2, 2],
        num_attention_heads=[1, 1], mlp_ratios=[1, 1], decoder_hidden_size=8, id2label=dict(enumerate(names)),
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(tmp_path / "hub")
    transformers.SegformerImageProcessor(size={"height": 32, "width": 48}).save_pretrained(tmp_path / "hub")
    return tmp_path / "hub"


def test_a_hub_model_reads_what_it_would_read_by_itself(hub_model: Path, folders: Folders) -> None:
    import transformers

    picture, _ = real_pair(folders)
    read = load_segmenter(f"hf:{hub_model}", SPACE)(picture, (64, 96))
    network = transformers.AutoModelForSemanticSegmentation.from_pretrained(hub_model).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(hub_model)
    inputs = processor(images=[picture[0].permute(1, 2, 0).numpy()], return_tensors="pt")
    with torch.inference_mode():
        logits = nn.functional.interpolate(network(**inputs).logits, (64, 96), mode="bilinear")
    assert torch.equal(read, SPACE.num_classes - 1 - logits.argmax(1))
    assert len(read.unique()) > 1


def test_a_hub_model_of_other_classes_is_refused(hub_model: Path) -> None:
    with pytest.raises(LabelError, match="classes that label space 'cityscapes' scores and lacks"):
        load_segmenter(f"hf:{hub_model}", LabelSpace.load("cityscapes"))


def test_a_hub_model_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    with pytest.raises(WeightsError, match=r"hf:.*nothing cannot be loaded"):
        load_segmenter(f"hf:{tmp_path / 'nothing'}", SPACE)

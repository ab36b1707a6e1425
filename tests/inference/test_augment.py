from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lab2pix.data.formats import find_pairs
from lab2pix.data.label_maps import read_label
from lab2pix.errors import ConfigError, DataError, OutputError
from lab2pix.evaluation.features import FeatureNetwork
from lab2pix.evaluation.segmenter_base import Segmenter
from lab2pix.inference import augment as module
from lab2pix.inference.augment import Augmenter, augment, with_unknown
from lab2pix.inference.augment_report import AugmentReport, AugmentSettings
from lab2pix.inference.label_agreement import (
    ClassDifficulty,
    agreeing_pixels,
    label_loss,
    map_difficulty,
    resample,
)
from lab2pix.inference.photo_distance import PhotoDistance
from lab2pix.labels.space import LabelSpace
from lab2pix.utils.distributed import DistributedContext
from tests.helpers.commands import Run, sentence
from tests.helpers.generators import tiny_synthesizer
from tests.helpers.images import ColorReader, Means, export, write_set

SPACE = LabelSpace.load("scenes")
CPU = DistributedContext(0, 1, torch.device("cpu"))


class TopAndBottom(Segmenter):
    """Is nearly sure of class 0 in the upper half and of class 1 in the lower one."""

    name, space, ids = "halves", SPACE, torch.arange(SPACE.num_classes)

    def logits(self, images: Tensor) -> Tensor:
        scores = torch.zeros(len(images), SPACE.num_classes, *images.shape[-2:])
        half = images.shape[-2] // 2
        scores[:, 0, :half], scores[:, 1, half:] = 8, 8
        return scores

    def describe(self) -> dict[str, Any]:
        return {"name": self.name}


class GridMeans(FeatureNetwork):
    """Features that are quick to compute."""

    name, dimension = "means", 18

    def __call__(self, images: Tensor) -> Tensor:
        return Means()(images.float())

    def describe(self) -> dict[str, Any]:
        return {}


@pytest.fixture(scope="module")
def synthesizer():
    return tiny_synthesizer()


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return write_set(tmp_path / "set").labels


def files_of(out: Path) -> dict[str, bytes]:
    return {str(file.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("*")) if file.is_file()}


def make(synthesizer, labels: Path, out: Path, *, segmenter=None, distance=None, **settings: Any) -> AugmentReport:
    pairs = find_pairs("folder", labels, None, need_images=False)
    given = AugmentSettings(**{"samples": 2, "least_agreement": 0.0, **settings})
    return augment(Augmenter(synthesizer, pairs, given, segmenter=segmenter, distance=distance), out, CPU)


def test_label_maps_become_pairs_with_a_manifest(synthesizer, labels: Path, tmp_path: Path) -> None:
    report = make(synthesizer, labels, tmp_path / "out")
    assert (report.ok, report.written, len(report.kept)) == (True, 10, 10)
    lines = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines[:2]] == ["a_0", "a_1"]
    assert {line["source"] for line in lines} == {"a", "b", "deep/c", "d", "e"}
    assert lines[0]["layout"] == {}
    assert lines[1]["layout"]["crop"][2] <= 32
    assert len({line["seed"] for line in lines}) == 10
    assert "step 7" in lines[0]["run"]
    space = LabelSpace.load(tmp_path / "out" / "classes.yaml")
    assert space.names == SPACE.names
    pairs = find_pairs("folder", tmp_path / "out", "train")
    assert len(pairs) == 10
    label, image = pairs[0].read_label(space), pairs[0].read_image()
    assert label.shape == image.shape[1:] == (64, 64)
    # The first image is that of the layout as it is.
    batch = synthesizer.read(labels / "a.png")
    assert torch.equal(label, batch.label[0])
    noise = synthesizer.noise(lines[0]["seed"])[None]
    expected = ((synthesizer.generate(batch, noise)[0] + 1) * 127.5).round().to(torch.uint8)
    assert torch.equal(image, expected)


def test_a_second_run_makes_what_is_missing_and_the_same_files(synthesizer, labels: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(synthesizer, labels, out, segmenter=TopAndBottom())
    whole = files_of(out)
    (out / "images" / "train" / "a_1.png").unlink()
    (out / "manifest.jsonl").write_bytes(whole["manifest.jsonl"][:-30])  # cut off
    assert make(synthesizer, labels, out, segmenter=TopAndBottom()).written > 0
    assert files_of(out) == whole
    assert make(synthesizer, labels, out, segmenter=TopAndBottom()).written == 0
    assert files_of(out) == whole
    with pytest.raises(OutputError, match="another 'seed'"):
        make(synthesizer, labels, out, segmenter=TopAndBottom(), seed=1)
    with pytest.raises(OutputError, match="another 'segmenter'"):
        make(synthesizer, labels, out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(OutputError, match="other files"):
        make(synthesizer, labels, tmp_path / "mine")


def test_an_interrupted_run_goes_on_with_any_number_of_processes(
    synthesizer, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(synthesizer, labels, tmp_path / "whole", batch_size=3)

    class StopError(Exception): ...

    def stop(*args: object) -> None:
        raise StopError

    pairs = find_pairs("folder", labels, None, need_images=False)
    augmenter = Augmenter(synthesizer, pairs, AugmentSettings(2, least_agreement=0.0, batch_size=3))
    out = tmp_path / "parts"
    with monkeypatch.context() as patch:
        patch.setattr(module, "_finish", stop)
        patch.setattr(DistributedContext, "gather", lambda self, value: [value])
        patch.setattr(DistributedContext, "run_on_main", lambda self, work: work())
        for rank in (2, 0):  # the part of process 1 is lost
            try:
                augment(augmenter, out, DistributedContext(rank, 3, torch.device("cpu")))
            except StopError:
                assert rank == 0
    assert len(list(out.glob("manifest-*.part"))) == 2
    assert 0 < augment(augmenter, out, CPU).written < 10
    assert files_of(out) == files_of(tmp_path / "whole")


def test_pixels_that_a_segmenter_disagrees_with_become_unknown(synthesizer, labels: Path, tmp_path: Path) -> None:
    ids = np.zeros((32, 48), np.uint8)
    ids[16:] = 1
    ids[2:6, 2:6] = 1  # the segmenter says 0
    for name in ("a", "b", "d", "e", "deep/c"):
        Image.fromarray(ids).save(labels / f"{name}.png")
    report = make(synthesizer, labels, tmp_path / "out", samples=1, segmenter=TopAndBottom(), resample=0.0)
    space = LabelSpace.load(tmp_path / "out" / "classes.yaml")
    found = read_label(tmp_path / "out" / "labels" / "train" / "a_0.png", space)
    assert set(torch.unique(found[4:12, 3:8]).tolist()) == {space.num_classes}
    assert (found[32:] == 1).all()
    assert 0.9 < (report.images[0].agreement or 0) < 1
    dropped = make(
        synthesizer, labels, tmp_path / "few", samples=1, segmenter=TopAndBottom(), resample=0.0, least_agreement=1.0
    )
    assert dropped.kept == []
    assert "5 images dropped" in str(dropped)
    assert not (tmp_path / "few" / "images").exists()
    assert len((tmp_path / "few" / "manifest.jsonl").read_text().splitlines()) == 5


def test_a_region_is_unknown_as_a_whole_where_most_of_it_disagrees() -> None:
    ids = torch.zeros(6, 12, dtype=torch.int64)
    ids[:, 6:] = 1
    ids[0, 0] = 2  # unknown
    losses = torch.full((6, 12), 0.1)
    losses[:, 6:9], losses[0, 9], losses[3, 1] = 5.0, 5.0, 5.0
    means = torch.tensor([0.2, 0.2], dtype=torch.float64)
    pixels = agreeing_pixels(losses, ids, means, 1.25, 0.0)
    assert not pixels[0, 0]
    assert not pixels[3, 1]
    assert pixels[:, 10:].all()
    regions = agreeing_pixels(losses, ids, means, 1.25, 0.5)
    assert not regions[:, 6:].any()
    assert torch.equal(regions[:, :6], pixels[:, :6])
    assert torch.equal(agreeing_pixels(losses, ids, means * 40, 1.25, 0.5), ids < 2)


def test_the_limit_of_a_class_is_its_mean_loss() -> None:
    difficulty = ClassDifficulty(3)
    ids = torch.tensor([[0, 0, 1, 3]])
    difficulty.update(torch.tensor([[0.1, 0.3, 2.0, 9.0]]), ids)
    assert difficulty.means().tolist() == pytest.approx([0.2, 2.0, 0.8])  # class 2 has no pixels, 3 is unknown
    assert map_difficulty(ids, difficulty.means()) == pytest.approx((0.2 + 0.2 + 2.0) / 3)


def test_the_loss_is_that_of_the_labeled_class() -> None:
    image = torch.zeros(3, 4, 4, dtype=torch.uint8)
    ids = torch.zeros(4, 4, dtype=torch.int64)
    ids[0, 0] = SPACE.num_classes
    losses = label_loss(TopAndBottom(), image, ids, with_unknown(SPACE))
    logits = torch.zeros(SPACE.num_classes)
    logits[0] = 8
    assert float(losses[0, 1]) == pytest.approx(-float(logits.log_softmax(0)[0]), abs=1e-6)
    assert float(losses[3, 0]) == pytest.approx(-float(logits.log_softmax(0)[1]), abs=1e-4)
    assert float(losses[0, 0]) == 0


def test_difficult_label_maps_get_more_images_of_the_same_total() -> None:
    difficulties = [0.1, 0.9, 0.5, 0.2]
    assert resample(difficulties, 4, 0.0) == [4, 4, 4, 4]
    counts = resample(difficulties, 4, 1.0)
    assert sum(counts) == 16
    assert counts == [1, 7, 5, 3]
    assert resample([0.5], 3, 1.0) == [3]


def test_images_far_from_the_photos_are_dropped(synthesizer, labels: Path, tmp_path: Path) -> None:
    photos = labels.parent / "real"
    distance = PhotoDistance.of(GridMeans(), photos, (64, 64))
    report = make(synthesizer, labels, tmp_path / "out", distance=distance, max_distance=1e9)
    values = sorted(image.distance for image in report.images)
    assert values[0] < values[-1]
    limit = values[4]
    fewer = make(synthesizer, labels, tmp_path / "near", distance=distance, max_distance=limit)
    assert len(fewer.kept) == 5
    assert all(image.distance <= limit for image in fewer.kept)
    own = torch.from_numpy(np.array(Image.open(photos / "a.png").resize((64, 64)))).permute(2, 0, 1)
    assert distance(own) < 1
    with pytest.raises(DataError, match="0 photos"):
        PhotoDistance.of(GridMeans(), tmp_path / "nowhere", (64, 64))


def test_unusable_label_maps_are_reported(synthesizer, labels: Path, tmp_path: Path) -> None:
    (labels / "broken.png").write_bytes(b"no image")
    report = make(synthesizer, labels, tmp_path / "out", segmenter=TopAndBottom())
    assert [path.name for path, _ in report.failed] == ["broken.png"]
    assert not report.ok
    assert "broken.png" in str(report)
    assert report.kept


def test_models_that_need_images_are_refused() -> None:
    styled = tiny_synthesizer(method="spade", data={"format": "folder"}, input="style")
    styled.sampling = type(styled.sampling)(**{**vars(styled.sampling), "style": "required"})
    with pytest.raises(ConfigError, match="not label maps alone"):
        Augmenter(styled, [], AugmentSettings())


@pytest.fixture(scope="module")
def model(synthesizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    synthesizer.save(folder / "weights")
    export(ColorReader(), folder / "colors.pt2", {"size": [32, 48], "classes": list(SPACE.names)})
    return folder


def test_command_writes_coco_and_shards_and_checks(model: Path, labels: Path, tmp_path: Path, run: Run) -> None:
    words = ("augment", model / "weights", labels, "--samples", 1, "--device", "cpu")
    filters = ("--segmenter", model / "colors.pt2", "--least-agreement", 0, "--resample", 0)
    code, output, errors = run(*words, *filters, "--out", tmp_path / "coco", "--form", "coco")
    assert (code, errors) == (0, "")
    assert "Train on it: data.format=folder" in output
    assert len(json.loads((tmp_path / "coco" / "annotations" / "panoptic_train.json").read_text())["images"]) == 5
    code, output, errors = run(*words, "--out", tmp_path / "tars", "--form", "shards")
    assert (code, errors) == (0, "")
    assert "train-000000.tar" in output
    sentence(run(*words, "--out", labels / "new"), "within the label maps")
    code, output, errors = run(*words, *filters[:2], "--tolerance", 0, "--out", tmp_path / "none")
    assert code == 1
    assert "0 pairs" in output


@pytest.mark.xslow
def test_two_processes_make_the_files_of_one(model: Path, labels: Path, tmp_path: Path) -> None:
    words = ["augment", model / "weights", labels, "--samples", "2", "--device", "cpu", "--batch-size", "2"]
    words += ["--segmenter", model / "colors.pt2", "--least-agreement", "0.3"]
    for processes in (1, 2):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes]
        done = subprocess.run(
            [str(word) for word in [*command, "-m", "lab2pix", *words, "--out", tmp_path / str(processes)]],
            capture_output=True,
            text=True,
            timeout=240,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2")

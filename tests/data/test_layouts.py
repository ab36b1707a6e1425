from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lab2pix.data.label_maps import write_label_png
from lab2pix.data.layouts import Layout, LayoutSettings, find_objects, vary_layout
from lab2pix.data.panoptic import write_panoptic
from lab2pix.data.shards import write_shards
from lab2pix.labels.space import LabelSpace
from lab2pix.utils.seeding import seeded_generator

SPACE = LabelSpace.from_dict(
    {
        "name": "things",
        "classes": ["sky", "ground", {"name": "car", "foreground": True}, {"name": "pole", "foreground": True}],
        "unknown_value": 255,
    }
)
STILL = LayoutSettings(flip=False, crop=1, paste=0, jitter=0)


def scene(*, cars: bool = True, instances: bool = False) -> Layout:
    """Sky over ground, with two cars that touch."""
    ids = torch.zeros(32, 48, dtype=torch.int64)
    ids[16:] = 1
    which = ids.clone()
    if cars:
        ids[14:20, 8:24] = 2
        which[14:20, 8:16], which[14:20, 16:24] = 10, 11
    return Layout(ids, which if instances else None)


def vary(settings: LayoutSettings, seed: int = 0, layout: Layout | None = None, donor: Layout | None = None):
    generator = seeded_generator("test", seed)
    return vary_layout(layout or scene(), donor or scene(), (32, 48), SPACE, settings, generator)


def test_objects_are_regions_or_instances_of_foreground_classes() -> None:
    assert [int(thing.mask.sum()) for thing in find_objects(scene(), SPACE)] == [96]
    assert [int(thing.mask.sum()) for thing in find_objects(scene(instances=True), SPACE)] == [48, 48]
    speck = scene(cars=False)
    speck.ids[3, 3] = 3
    assert find_objects(speck, SPACE) == []


def test_a_layout_stays_as_it_is_without_changes() -> None:
    result, done = vary(STILL)
    assert torch.equal(result.ids, scene().ids)
    assert done == {"flip": False, "crop": [0, 0, 32, 48], "moved": 0, "pasted": []}


def test_flips_and_crops_apply_to_both_maps() -> None:
    flipped = [vary(LayoutSettings(True, 1, 0, 0), seed, scene(instances=True)) for seed in range(8)]
    assert {done["flip"] for _, done in flipped} == {True, False}
    for result, done in flipped:
        expected = scene(instances=True)
        assert torch.equal(result.ids, expected.ids.flip(-1) if done["flip"] else expected.ids)
        assert torch.equal(result.instances, expected.instances.flip(-1) if done["flip"] else expected.instances)
    result, done = vary(LayoutSettings(False, 0.5, 0, 0), 3, scene(instances=True))
    top, left, height, width = done["crop"]
    assert 16 <= height < 32
    assert height / 32 == pytest.approx(width / 48, abs=0.05)
    assert result.ids.shape == result.instances.shape == (32, 48)
    assert int(result.ids[0, 0]) == int(scene().ids[top, left])


def test_objects_move_and_uncover_the_nearest_classes() -> None:
    moved = [vary(LayoutSettings(False, 1, 0, 0.1), seed) for seed in range(8)]
    assert {done["moved"] for _, done in moved} == {0, 1}
    result = next(result for result, done in moved if done["moved"] and not torch.equal(result.ids, scene().ids))
    assert int((result.ids == 2).sum()) == 96  # none of it left the image
    below = torch.unique(result.ids[:16][result.ids[:16] != 2])
    assert set(below.tolist()) <= {0, 1}
    assert set(torch.unique(result.ids).tolist()) == {0, 1, 2}


def test_objects_of_another_map_are_pasted_as_new_instances() -> None:
    plain = scene(cars=False, instances=True)
    pasted = [vary(LayoutSettings(False, 1, 1, 0), seed, plain, scene(instances=True)) for seed in range(8)]
    assert {len(done["pasted"]) for _, done in pasted} == {0, 1}
    result, done = next(pair for pair in pasted if pair[1]["pasted"])
    assert done["pasted"] == [{"class": "car", "pixels": 48}]
    assert torch.equal(result.ids == 2, result.instances == 2)  # a number that no instance had
    assert not (plain.ids == 2).any()


def test_layouts_depend_on_the_seed_alone() -> None:
    settings = LayoutSettings()
    assert torch.equal(vary(settings, 5)[0].ids, vary(settings, 5)[0].ids)
    assert any(not torch.equal(vary(settings, 5)[0].ids, vary(settings, seed)[0].ids) for seed in (6, 7))


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    for number in range(3):
        layout = scene(instances=True)
        layout.ids[0, :4] = SPACE.num_classes
        for folder in ("images", "labels", "instances"):
            (tmp_path / folder / "train" / "sub").mkdir(parents=True, exist_ok=True)
        name = f"train/sub/{number}.png"
        write_label_png(tmp_path / "labels" / name, layout.ids, SPACE)
        Image.fromarray(layout.instances.numpy().astype(np.uint16)).save(tmp_path / "instances" / name)
        Image.new("RGB", (48, 32), (number, 0, 0)).save(tmp_path / "images" / name)
    return tmp_path


def test_panoptic_annotations_have_a_segment_per_instance_and_stuff_class(dataset: Path) -> None:
    found = json.loads(write_panoptic(dataset, "train", SPACE).read_text())
    assert found["images"][0] == {"id": 1, "file_name": "sub/0.png", "height": 32, "width": 48}
    assert [(entry["name"], entry["isthing"]) for entry in found["categories"]] == [
        *(("sky", 0), ("ground", 0), ("car", 1), ("pole", 1))
    ]
    annotation = found["annotations"][0]
    segments = annotation["segments_info"]
    assert [(segment["category_id"], segment["area"]) for segment in segments[2:]] == [(3, 48), (3, 48)]
    assert segments[2]["bbox"] == [8, 14, 8, 6]
    png = np.array(Image.open(dataset / "annotations" / "panoptic_train" / annotation["file_name"])).astype(int)
    ids = png @ [1, 256, 65536]
    assert (ids[0, :4] == 0).all()  # unknown
    for segment in segments:
        assert int((ids == segment["id"]).sum()) == segment["area"]


def test_without_instance_maps_all_classes_are_stuff(dataset: Path) -> None:
    for file in (dataset / "instances" / "train" / "sub").iterdir():
        file.unlink()
    found = json.loads(write_panoptic(dataset, "train", SPACE).read_text())
    assert {entry["isthing"] for entry in found["categories"]} == {0}
    assert [segment["area"] for segment in found["annotations"][0]["segments_info"]][2] == 96


def test_shards_hold_the_files_with_their_records(dataset: Path, tmp_path: Path) -> None:
    records = {f"sub/{number}": {"seed": number} for number in range(3)}
    shards = write_shards(dataset, "train", tmp_path / "a", records, per_shard=2)
    assert [shard.name for shard in shards] == ["train-000000.tar", "train-000001.tar"]
    with tarfile.open(shards[1]) as tar:
        keys = ["00000002.image.png", "00000002.label.png", "00000002.instance.png", "00000002.json"]
        assert tar.getnames() == keys
        image = tar.extractfile(keys[0])
        record = tar.extractfile(keys[3])
        assert image is not None
        assert record is not None
        assert image.read() == (dataset / "images" / "train" / "sub" / "2.png").read_bytes()
        assert json.load(record) == {"name": "sub/2", "seed": 2}
    again = write_shards(dataset, "train", tmp_path / "b", records, per_shard=2)
    assert [one.read_bytes() for one in shards] == [one.read_bytes() for one in again]

"""Random pairing of label maps and photos: never the own photo, uniform, reproducible, independent flips."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from lab2pix.config.schema import DataConfig
from lab2pix.data import files, pairs
from lab2pix.data.build import build_dataset
from lab2pix.data.datasets import PairDataset, UnpairedDataset, random_pairing
from lab2pix.data.samples import collate
from lab2pix.data.scenes.dataset import draw_scene
from lab2pix.errors import ConfigError, DataError
from lab2pix.labels.space import LabelClass, LabelSpace

SPACE = LabelSpace("gray", tuple(LabelClass(str(i), (i * 9, 0, 0)) for i in range(20)))


def write(folder: Path, count: int, size: tuple[int, int] = (8, 8), **suffix: str) -> Path:
    """Write pictures whose left half holds 2i and whose right half 2i + 1, so that number and flip can be told."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        pixels = np.full(size, 2 * i, dtype=np.uint8)
        pixels[:, size[1] // 2 :] += 1
        Image.fromarray(pixels).save(folder / f"{i:02d}{suffix.get('suffix', '.png')}")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split, count in (("train", 5), ("val", 2)):
        for kind in ("labels", "images"):
            write(tmp_path / kind / split, count)
    return tmp_path


def build(
    split: str = "train", seed: int = 0, *, paired: bool = False, **settings: object
) -> UnpairedDataset | PairDataset:
    data = DataConfig.model_validate({"size": (8, 8), **settings})
    return build_dataset(data, split, SPACE, seed, paired=paired)  # type: ignore[arg-type, return-value]


def number(photo: torch.Tensor | None) -> int:
    """Tell which of the written photos this is."""
    assert photo is not None
    return round(float((photo.min() + 1) * 127.5)) // 2


def mirrored(part: torch.Tensor | None) -> bool:
    """Tell whether the brighter half lies left."""
    assert part is not None
    return bool(part.flatten()[0] > part.flatten()[-1])


# --- the draw -------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32), st.integers(0, 1000), st.integers(2, 60))
def test_random_pairing_avoids_the_known_partner_and_uses_every_photo_once(seed: int, epoch: int, count: int) -> None:
    drawn = random_pairing(seed, epoch, count, count, paired=True)
    assert sorted(drawn.tolist()) == list(range(count))
    assert not (drawn == torch.arange(count)).any()
    assert torch.equal(drawn, random_pairing(seed, epoch, count, count, paired=True))


@given(st.integers(0, 2**32), st.integers(0, 1000), st.integers(1, 60), st.integers(1, 60))
def test_random_pairing_uses_photos_evenly(seed: int, epoch: int, labels: int, photos: int) -> None:
    drawn = random_pairing(seed, epoch, labels, photos, paired=False)
    uses = torch.bincount(drawn, minlength=photos)
    assert len(drawn) == labels and len(uses) == photos
    assert uses.min() == labels // photos and uses.max() == -(-labels // photos)


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.booleans())
def test_random_pairing_differs_by_epoch_and_seed(seed: int, paired: bool) -> None:
    draws = {tuple(random_pairing(s, e, 30, 30, paired=paired).tolist()) for s in (seed, seed + 1) for e in range(5)}
    assert len(draws) == 10


def test_over_many_epochs_every_label_map_meets_every_other_photo() -> None:
    met = torch.zeros(4, 4)
    for epoch in range(600):
        met[torch.arange(4), random_pairing(7, epoch, 4, 4, paired=True)] += 1
    others = met[~torch.eye(4, dtype=torch.bool)]
    assert met.diag().sum() == 0 and others.min() > 150 and others.max() < 250  # 200 expected


# --- samples --------------------------------------------------------------------------------------------------------


def test_a_format_with_the_pairing_broken(root: Path) -> None:
    dataset = build(root=str(root), flip=False)
    assert len(dataset) == 5
    for epoch in range(3):
        samples = [dataset[(epoch, i)] for i in range(5)]
        assert [int(sample["label"].min()) // 2 for sample in samples] == list(range(5))
        met = [number(sample["image"]) for sample in samples]
        assert sorted(met) == list(range(5)) and all(i != j for i, j in enumerate(met))
    assert dataset[3]["name"] == "03" and dataset[3]["edges"] is None


def test_samples_do_not_depend_on_the_order_of_reading(root: Path) -> None:
    """What a resumed run reads is what the unbroken one would have."""
    one, two = build(root=str(root)), build(root=str(root))
    keys = [(epoch, i) for epoch in range(4) for i in range(5)]
    forward = {key: one[key] for key in keys}
    for key in reversed(keys):
        again = two[key]
        assert torch.equal(again["image"], forward[key]["image"])
        assert torch.equal(again["label"], forward[key]["label"])
    other = build(root=str(root), seed=1)
    assert any(not torch.equal(other[key]["image"], forward[key]["image"]) for key in keys)


def test_batches_from_workers_are_the_same(root: Path) -> None:
    dataset = build(root=str(root))
    keys = [[(0, 0), (0, 3)], [(0, 1), (1, 2)]]
    here = [collate([dataset[key] for key in batch]) for batch in keys]
    there = list(DataLoader(dataset, batch_sampler=keys, num_workers=1, collate_fn=collate))
    for a, b in zip(here, there, strict=True):
        assert torch.equal(a.label, b.label) and torch.equal(a.image, b.image) and a.names == b.names


def test_label_map_and_photo_flip_independently(root: Path) -> None:
    dataset = build(root=str(root))
    seen = [
        (mirrored(sample["label"]), mirrored(sample["image"]))
        for epoch in range(40)
        for sample in (dataset[(epoch, i)] for i in range(5))
    ]
    for both in itertools.product((False, True), repeat=2):
        assert 25 < seen.count(both) < 75  # 50 expected of each


def test_label_map_and_photo_are_cropped_independently(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(20, dtype=np.uint8), (20, 1))
    for kind in ("labels", "images"):
        (tmp_path / kind).mkdir()
        for i in range(2):
            Image.fromarray(ramp).save(tmp_path / kind / f"{i}.png")
    dataset = build(root=str(tmp_path), train_split=None, resize=(20, 20), flip=False)
    lefts = set()
    for epoch in range(10):
        sample = dataset[(epoch, 0)]
        assert sample["image"] is not None
        lefts.add((int(sample["label"][0, 0]), round(float(sample["image"][0, 0, 0] + 1) * 127.5)))
    assert len({left for left, _ in lefts}) > 3 and any(left != photo for left, photo in lefts)


def test_reading_a_side_leaves_the_other_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    for module in (files, pairs):
        read = module.open_image
        monkeypatch.setattr(module, "open_image", lambda path, read=read: (opened.append(path), read(path))[1])
    dataset = build(root=str(root))
    assert isinstance(dataset, UnpairedDataset)
    met = dataset.partner(2, 1)
    dataset[(2, 1)]
    assert [str(path.relative_to(root)) for path in opened] == ["labels/train/01.png", f"images/train/{met:02d}.png"]


def test_sizes_of_partners_need_not_agree(root: Path) -> None:
    write(root / "images/train", 5, (30, 50))
    assert all(build(root=str(root))[(1, i)]["image"].shape == (3, 8, 8) for i in range(5))  # type: ignore[union-attr]


def test_held_out_pairs_stay_pairs(root: Path) -> None:
    dataset = build("val", root=str(root))
    assert len(dataset) == 2
    for epoch, i in itertools.product(range(3), range(2)):
        sample = dataset[(epoch, i)]
        assert number(sample["image"]) == i == int(sample["label"].min()) // 2
        assert not mirrored(sample["image"]) and not mirrored(sample["label"])


def test_instance_borders_follow_the_label_map(root: Path) -> None:
    write(root / "instances/train", 5)
    sample = build(root=str(root), instance_edges=True)[(0, 1)]
    assert sample["edges"] is not None and sample["edges"][0, 0].tolist() == [0, 0, 0, 1, 1, 0, 0, 0]


def test_unpaired_file_hash_covers_both_sides(root: Path) -> None:
    before = build(root=str(root)).file_hash()
    paired = build(root=str(root), paired=True).file_hash()
    assert before == build(root=str(root)).file_hash() != paired
    write(root / "images/train", 5, (9, 9))
    assert build(root=str(root)).file_hash() != before


def test_unpaired_dataset_refuses_a_single_pair(tmp_path: Path) -> None:
    for kind in ("labels", "images"):
        write(tmp_path / kind, 1)
    with pytest.raises(DataError, match=r"only one pair to train on, 00, .*add more"):
        build(root=str(tmp_path), train_split=None)


def test_drawn_scenes_meet_other_pictures() -> None:
    space = LabelSpace.load("scenes")
    data = DataConfig.model_validate({"format": "scenes", "size": (32, 32), "flip": False})
    data = data.model_copy(update={"scenes": data.scenes.model_copy(update={"train_count": 4, "val_count": 2})})
    dataset = build_dataset(data, "train", space, 0, paired=False)
    assert isinstance(dataset, UnpairedDataset) and len(dataset) == 4
    pictures = [draw_scene(0, i, (32, 32)) for i in range(4)]
    for i in range(4):
        sample = dataset[(5, i)]
        assert torch.equal(sample["label"], pictures[i][1])
        image = (sample["image"] + 1) * 127.5  # type: ignore[operator]
        met = [j for j in range(4) if torch.allclose(image, pictures[j][0].float(), atol=1e-3)]
        assert met == [dataset.partner(5, i)] != [i]
    held_out = build_dataset(data, "val", space, 0, paired=False)
    assert held_out[0]["image"] is not None and held_out[0]["name"] == "scene-0-1000000000"


# --- folders side by side -------------------------------------------------------------------------------------------


def sides(tmp_path: Path, labels: int = 3, photos: int = 7, split: str = "") -> dict[str, object]:
    write(tmp_path / "maps" / split, labels)
    write(tmp_path / "shots" / split, photos, (20, 30), suffix=".jpg")
    return {"labels": {"root": str(tmp_path / "maps")}, "images": {"root": str(tmp_path / "shots")}}


@pytest.mark.parametrize(("labels", "photos"), [(3, 7), (7, 3), (1, 1), (4, 4)])
def test_unpaired_dataset_takes_folders_of_any_length(tmp_path: Path, labels: int, photos: int) -> None:
    dataset = build(**sides(tmp_path, labels, photos))
    assert len(dataset) == labels
    met = [number(dataset[(0, i)]["image"]) for i in range(labels)]
    assert len(set(met)) == min(labels, photos)


def test_sub_folders_count_whether_they_are_splits_or_not(tmp_path: Path) -> None:
    given = sides(tmp_path, 3, 4, split="train")
    write(tmp_path / "maps/val", 2)
    write(tmp_path / "shots/val", 2)
    write(tmp_path / "maps/train/deep/er", 2)
    dataset = build(**given)
    assert len(dataset) == 5 and dataset[4]["name"] == "deep/er/01"
    held_out = build("val", **given)
    assert len(held_out) == 2 and held_out[0]["image"] is None
    assert collate([held_out[0], held_out[1]]).image is None
    assert len(build(**given, train_split=None, val_split=None)) == 7


def test_a_side_without_the_split_is_taken_whole(tmp_path: Path) -> None:
    given = sides(tmp_path, 3, 4)
    assert len(build(**given)) == 3
    with pytest.raises(DataError, match=r"maps has no folder 'val' to hold out; .*data\.val_split=null"):
        build("val", **given)
    write(tmp_path / "shots/val", 2)
    with pytest.raises(DataError, match=r"shots has a folder 'val' to hold out but no 'train'"):
        build(**given)


def test_one_side_of_its_own_and_one_of_a_format(root: Path, tmp_path: Path) -> None:
    write(tmp_path / "shots", 8)
    dataset = build(root=str(root), images={"root": str(tmp_path / "shots")}, flip=False)
    assert len(dataset) == 5 and len({number(dataset[(0, i)]["image"]) for i in range(5)}) == 5
    assert build("val", root=str(root), images={"root": str(tmp_path / "shots")})[0]["image"] is None
    write(tmp_path / "maps", 9)
    dataset = build(root=str(root), labels={"root": str(tmp_path / "maps")})
    assert len(dataset) == 9 and all(number(dataset[(1, i)]["image"]) < 5 for i in range(9))
    dataset = build(format="scenes", size=(32, 32), labels={"root": str(tmp_path / "maps")})
    assert len(dataset) == 9 and dataset[0]["image"].shape == (3, 32, 32)  # type: ignore[union-attr]


def test_an_empty_side_names_its_folder(root: Path, tmp_path: Path) -> None:
    given = sides(tmp_path)
    for file in (tmp_path / "shots").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"no photos in .*shots; .*data\.images\.root"):
        build(**given)
    (tmp_path / "shots").rmdir()
    with pytest.raises(DataError, match=r"no folder .*shots; give the folder of photos \(data\.images\.root\)"):
        build(**given)
    for file in (tmp_path / "maps").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"no label maps in .*maps; .*data\.labels\.root"):
        build(**given)
    for kind in ("images", "labels"):
        for file in (root / kind / "train").iterdir():
            file.unlink()
        with pytest.raises(DataError, match=rf"no images in .*{kind}/train"):
            build(root=str(root))
        write(root / kind / "train", 5)


def test_folders_for_sides_of_pairs_are_refused(root: Path) -> None:
    for key in ("labels", "images"):
        with pytest.raises(ConfigError, match=rf"data\.{key}\.root is set, but the method learns from pairs"):
            build(root=str(root), paired=True, **{key: {"root": str(root)}})
    with pytest.raises(ConfigError, match=r"data\.root is missing"):
        build(labels={"root": str(root / "labels")})


def test_the_hash_of_folders_moves_with_them(tmp_path: Path) -> None:
    before = build(**sides(tmp_path / "a")).file_hash()
    assert build(**sides(tmp_path / "b")).file_hash() == before
    (tmp_path / "b/shots/06.jpg").unlink()
    again = {"labels": {"root": str(tmp_path / "b/maps")}, "images": {"root": str(tmp_path / "b/shots")}}
    assert build(**again).file_hash() != before


@pytest.mark.slow
def test_cityscapes_loads_unpaired(data_root: Path) -> None:
    space = LabelSpace.load("cityscapes")
    data = DataConfig.model_validate({"format": "cityscapes", "root": str(data_root / "cityscapes"), "size": (16, 32)})
    dataset = build_dataset(data, "train", space, 0, paired=False)
    assert isinstance(dataset, UnpairedDataset)
    batch = collate([dataset[(0, i)] for i in range(2)])
    assert batch.image is not None and batch.image.shape == (2, 3, 16, 32)
    assert all(dataset.partner(0, i) != i for i in range(len(dataset)))

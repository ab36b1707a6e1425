"""Compact pair lists of large datasets: memory, listing without opening files, hashes."""

from __future__ import annotations

import hashlib
import os
import pickle
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lab2pix.config.schema import DataConfig
from lab2pix.data import build_dataset
from lab2pix.data.datasets import PairDataset
from lab2pix.data.files import find_images, list_images
from lab2pix.data.formats import find_pairs
from lab2pix.data.pairs import Pair, PairList, Row
from lab2pix.data.transforms import JointTransform
from lab2pix.labels.space import LabelSpace

SCENES = LabelSpace.load("scenes")
# As the file system's names come: anything but a zero, broken Unicode too.
TEXT = st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=6).filter(lambda text: Path(text).name)
PAIRS = st.lists(
    st.builds(
        Pair,
        name=TEXT,
        label=TEXT.map(Path),
        image=st.none() | TEXT.map(Path),
        instance=st.none() | TEXT.map(Path),
        form=st.sampled_from(["files", "photo-left", "sketch-left"]),
    ),
    max_size=5,
)


@pytest.mark.slow
@given(PAIRS)
def test_pair_list_returns_pairs_unchanged(pairs: list[Pair]) -> None:
    kept = PairList.of(pairs)
    assert len(kept) == len(pairs)
    assert list(kept) == pairs == list(pickle.loads(pickle.dumps(kept)))
    assert list(kept[1:]) == pairs[1:] and list(kept[::-2]) == pairs[::-2]
    assert bool(kept) == bool(pairs)
    if pairs:
        assert kept[-1] == pairs[-1] and kept[0] == pairs[0]
    for place in (len(pairs), -len(pairs) - 1):
        with pytest.raises(IndexError):
            kept[place]


def test_pair_list_of_a_pair_list_is_no_copy() -> None:
    kept = PairList([Row("a", "a.png")])
    assert PairList.of(kept) is kept
    assert kept[0] == Pair("a", Path("a.png"))


def test_pair_list_takes_little_memory() -> None:
    count = 10_000
    tracemalloc.start()
    try:
        kept = PairList(Row(f"{i:012}", f"labels/{i:012}.png", f"images/{i:012}.jpg") for i in range(count))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(kept) == count
    assert held / count < 120  # bytes; the three texts have 64, as objects they would take 700


NAMES = [
    *("b.png", "a.JPG", "a.b.tif", "sub/d.png", "sub/c.webp", "sub/deep/e.bmp", ".hidden.png", ".folder/f.png"),
    *("png", "g.txt", "h.png.txt"),
]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_pictures_are_listed_in_order(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = ["a.JPG", "a.b.tif", "b.png", "sub/c.webp", "sub/d.png", "sub/deep/e.bmp"]
    assert [stem + suffix for stem, suffix in list_images(pictures)] == expected
    assert list(find_images(pictures)) == [pictures / name for name in expected]
    monkeypatch.chdir(pictures)
    assert list(find_images(Path())) == [Path(name) for name in expected]
    assert [pair.name for pair in find_pairs("folder", ".", None, need_images=False)] == [
        *("a", "a.b", "b", "sub/c", "sub/d", "sub/deep/e")
    ]
    assert find_pairs("folder", ".", None, need_images=False)[3].label == Path("sub/c.webp")


def plain_hash(pairs: list[Pair], root: Path | None) -> str:
    """The hash that stands in the `run.json` of runs that are to be resumed."""
    digest = hashlib.sha256()
    for pair in pairs:
        for path in dict.fromkeys((pair.label, pair.image, pair.instance)):
            if path is not None:
                name = path.relative_to(root) if root is not None else path
                digest.update(f"{name.as_posix()}\0{path.stat().st_size}\n".encode())
    return digest.hexdigest()


@pytest.mark.parametrize("format", ["folder", "facades"])
@pytest.mark.parametrize("place", ["full", "here", None])
def test_file_hash_is_that_of_names_and_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, place: str | None
) -> None:
    for size, name in enumerate(
        ("images/b.jpg", "images/ä/a.png", "labels/b.png", "labels/ä/a.png", "instances/b.png")
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size + 1))
    monkeypatch.chdir(tmp_path)
    root = Path() if place == "here" else tmp_path
    pairs = list(find_pairs(format, root, None if format == "folder" else "images"))
    assert len(pairs) == 2
    start = None if place is None else root
    made = PairDataset(pairs, SCENES, JointTransform((8, 8), None, False, True), root=start)
    assert made.file_hash() == plain_hash(pairs, start)


def test_file_hash_of_a_name_that_is_no_unicode(tmp_path: Path) -> None:
    try:
        (tmp_path / os.fsdecode(b"\xff.png")).write_bytes(b"12")
    except OSError:
        pytest.skip("this file system takes no such names")
    (pair,) = pairs = find_pairs("folder", tmp_path, None, need_images=False)
    assert pair.label.read_bytes() == b"12"
    made = PairDataset(pairs, SCENES, JointTransform((8, 8), None, False, True), root=tmp_path)
    assert made.file_hash() == hashlib.sha256(b"\xff.png\x002\n").hexdigest()


@pytest.mark.parametrize("unpaired", [False, True])
def test_opening_a_dataset_opens_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unpaired: bool) -> None:
    for kind, suffix in (("images", "jpg"), ("labels", "png"), ("instances", "png")):
        (tmp_path / kind / "train").mkdir(parents=True)
        for index in range(3):
            (tmp_path / kind / "train" / f"{index}.{suffix}").touch()

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a file was opened")

    monkeypatch.setattr(Image, "open", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    data = DataConfig(root=str(tmp_path), val_split=None, size=(32, 32), instance_edges=True)
    made = build_dataset(data, "train", SCENES, 0, paired=not unpaired)
    assert len(made) == 3 and len(made.file_hash()) == 64
    with pytest.raises(AssertionError, match="was opened"):
        made[(0, 0)]

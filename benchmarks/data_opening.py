"""Opening a large set, the present way beside the plain one; `data.py` measures it.

A set is made of hard links to a few small pictures, where the file system takes enough of them: opening reads no file.
"""

from __future__ import annotations

import gc
import hashlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from surroundings import peak_resident

from lab2pix.config.schema import DataConfig
from lab2pix.data import build_dataset
from lab2pix.data.files import IMAGE_SUFFIXES
from lab2pix.data.pairs import Pair
from lab2pix.labels.space import LabelSpace

__all__ = ["SETS", "make_set", "opened", "resident"]

_LINKS = 30_000  # of one file; ext4 takes 65,000
_CITIES = 20


def _folder(count: int) -> Iterator[tuple[str, str]]:
    yield from ((f"images/train/{i:012}.jpg", f"labels/train/{i:012}.png") for i in range(count))


def _ade20k(count: int) -> Iterator[tuple[str, str]]:
    for i in range(count):
        name = f"training/ADE_train_{i:08}"
        yield f"ADEChallengeData2016/images/{name}.jpg", f"ADEChallengeData2016/annotations/{name}.png"


def _coco_stuff(count: int) -> Iterator[tuple[str, ...]]:
    yield from ((f"train_img/{i:012}.jpg", f"train_label/{i:012}.png", f"train_inst/{i:012}.png") for i in range(count))


def _cityscapes(count: int) -> Iterator[tuple[str, ...]]:
    for i in range(count):
        city = f"city{i % _CITIES:02}"
        name = f"train/{city}/{city}_{i:06}_000019"
        kinds = (f"gtFine/{name}_gtFine_{kind}.png" for kind in ("labelIds", "instanceIds", "color"))
        yield (f"leftImg8bit/{name}_leftImg8bit.png", *kinds)


SETS: dict[str, tuple[Callable[[int], Iterator[tuple[str, ...]]], str, dict[str, Any]]] = {
    "folder": (_folder, "folder", {}),
    "folder, unpaired": (_folder, "folder", {"unpaired": True}),
    "two folders, unpaired": (_folder, "folder", {"sides": True, "unpaired": True}),
    "ade20k": (_ade20k, "ade20k", {}),
    "coco-stuff, instances": (_coco_stuff, "coco-stuff", {"instance_edges": True}),
    "cityscapes, instances": (_cityscapes, "cityscapes", {"instance_edges": True}),
}
"""Rows of the table: which files there are, the layout, and more settings."""


def make_set(row: str, root: Path, count: int) -> int:
    """Write the files of a row's set and return how many there are."""
    made = 0
    folders: set[Path] = set()
    source = root.parent / f"{root.name}-source.png"
    for names in SETS[row][0](count):
        for name in names:
            if made % _LINKS == 0:
                source.unlink(missing_ok=True)
                root.mkdir(parents=True, exist_ok=True)
                Image.new("L", (16, 16)).save(source)
            path = root / name
            if path.parent not in folders:
                folders.add(path.parent)
                path.parent.mkdir(parents=True, exist_ok=True)
            os.link(source, path)
            made += 1
    source.unlink()
    return made


def settings(row: str, root: Path) -> DataConfig:
    """Return the part of a configuration that names a row's set."""
    _, layout, more = SETS[row]
    given = {name: value for name, value in more.items() if name not in ("sides", "unpaired")}
    if "sides" in more:
        given |= {"labels": {"root": str(root / "labels")}, "images": {"root": str(root / "images")}}
    else:
        given["root"] = str(root)
    return DataConfig(layout=layout, val_split=None, size=(64, 64), label_space="cityscapes", **given)


def present(row: str, root: Path) -> Any:
    """Open a set as a training does: find the pairs, and hash names and sizes."""
    paired = "unpaired" not in SETS[row][2]
    made = build_dataset(settings(row, root), "train", LabelSpace.load("cityscapes"), 0, paired=paired)
    return made, made.file_hash()


def plain(row: str, root: Path) -> Any:
    """Open a set the plain way: a `Path` for every file, dictionaries of them, and an object for every pair."""
    layout = SETS[row][1]
    by_suffix = {
        "folder": ("images/train", "labels/train", None),
        "ade20k": ("ADEChallengeData2016/images/training", "ADEChallengeData2016/annotations/training", None),
        "coco-stuff": ("train_img", "train_label", "train_inst"),
        "cityscapes": ("leftImg8bit/train", "gtFine/train", "gtFine/train"),
    }[layout]
    endings = ("_leftImg8bit", "_gtFine_labelIds", "_gtFine_instanceIds") if layout == "cityscapes" else ("", "", "")
    photos, labels, instances = (
        {} if part is None else _paths(root / part, ending) for part, ending in zip(by_suffix, endings, strict=True)
    )
    pairs = [Pair(name, labels[name], photos[name], instances.get(name)) for name in sorted(labels)]
    digest = hashlib.sha256()
    for pair in pairs:
        for path in dict.fromkeys((pair.label, pair.image, pair.instance)):
            if path is not None:
                digest.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\n".encode())
    return pairs, digest.hexdigest()


def _paths(folder: Path, ending: str) -> dict[str, Path]:
    found = {}
    for parent, _, names in os.walk(folder):
        for name in sorted(names):
            path = Path(parent) / name
            stem = path.relative_to(folder).with_suffix("").as_posix()
            if path.suffix.lower() in IMAGE_SUFFIXES and stem.endswith(ending):
                found[stem.removesuffix(ending)] = path
    return found


WAYS = {"plain": plain, "present": present}


def resident() -> tuple[float, float]:
    """Return the memory that this process has now, in MiB: its own, and with the files of libraries."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return tuple(int(lines[key].split()[0]) / 1024 for key in ("RssAnon", "VmRSS"))  # type: ignore[return-value]
    except (FileNotFoundError, KeyError):  # a system without /proc knows the highest only
        highest = peak_resident()
        return highest, highest


def drop_caches() -> None:
    """Let the system forget the folders and files that it has in memory; Linux, for root alone."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


def opened(row: str, way: str, root: Path, repeats: int, *, drop: bool) -> dict[str, Any]:
    """Open a set in this process, which has opened none before, and then again and again.

    Args:
        row: which set.
        way: how.
        root: where it lies.
        repeats: how often the time after the first is taken.
        drop: let the system forget the files before the first time.
    """
    import lab2pix.training  # noqa: F401 - what a training has in memory before it opens its data

    torch.set_num_threads(1)
    gc.collect()
    before, whole = resident()
    if drop:
        drop_caches()
    times = []
    for turn in range(1 + repeats):
        clock, processor = time.perf_counter(), time.process_time()
        made = WAYS[way](row, root)
        times.append((time.perf_counter() - clock, time.process_time() - processor))
        if turn == 0:
            held = resident()[0] - before
            peak = peak_resident() - whole
        pairs, digest = len(made[0]), made[1]
        del made
    clocks, processors = (statistics.median(column) for column in zip(*times[1:], strict=True))
    return {
        "pairs": pairs,
        "hash": digest,
        "first_s": times[0][0],
        "first_cpu_s": times[0][1],
        "again_s": clocks,
        "again_cpu_s": processors,
        "held_mib": held,
        "peak_mib": peak,
        "before_mib": whole,
    }

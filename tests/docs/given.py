"""What a reader of the guide already has: data, label spaces, trained models and reports, all as small as possible."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lab2pix import Protocol, evaluate_folders, train
from lab2pix.cli import main
from lab2pix.nn.official_v1 import OfficialV1Generator
from lab2pix.web.standalone.export import RUNTIME_FILES
from tests.docs.blocks import ROOT, blocks
from tests.helpers.generators import tiny_synthesizer

SIDE = 64
TRAIN, VAL = ("0001", "0002", "0003", "0004"), ("0901", "0902")
ROBOTS = next(block.text for block in blocks("quickstart") if block.language == "yaml")
"""The label space of the quickstart: ids 0 to 2."""


def _pixels(seed: int, size: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def _label_map(seed: int, classes: int = 3, size: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, classes, (size[0] // 8, size[1] // 8), dtype=np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)


def _write(file: Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def _pairs(root: Path, count: int = len(TRAIN)) -> None:
    """Write pairs, `count` to train on."""
    for split, names in (("train", tuple(f"{number:04}" for number in range(1, count + 1))), ("val", VAL)):
        for name in names:
            _write(root / f"images/{split}/{name}.jpg", _pixels(int(name)))
            _write(root / f"labels/{split}/{name}.png", _label_map(int(name)))


def _cityscapes(root: Path) -> None:
    for split in ("train", "val"):
        for name in ("aachen_000000_000019", "aachen_000001_000019"):
            seed, size = len(split) + int(name[12]), (SIDE, 2 * SIDE)
            _write(root / f"leftImg8bit/{split}/aachen/{name}_leftImg8bit.png", _pixels(seed, size))
            ids = _label_map(seed, 34, size)
            for kind in ("labelIds", "instanceIds"):
                _write(root / f"gtFine/{split}/aachen/{name}_gtFine_{kind}.png", ids)


def _coco(root: Path) -> None:
    for split, names in (("train", TRAIN), ("val", VAL)):
        for name in names:
            _write(root / f"{split}_img/{name}.jpg", _pixels(int(name)))
            for kind in ("label", "inst"):
                _write(root / f"{split}_{kind}/{name}.png", _label_map(int(name), 182))


def _shoes(root: Path) -> None:
    for split, names in (("train", TRAIN), ("val", VAL)):
        for name in names:
            drawing = np.full((SIDE, SIDE, 3), 255, dtype=np.uint8)
            drawing[int(name) % 50] = 0
            _write(root / f"{split}/{name}.jpg", np.hstack([drawing, _pixels(int(name))]))


def _ort_web(root: Path) -> None:
    """Stand in for the npm package onnxruntime-web."""
    (root / "dist").mkdir(parents=True)
    for name in (file for files in RUNTIME_FILES.values() for file in files):
        _text(root / "dist" / name, name)


def _official_v1(root: Path) -> None:
    root.mkdir(parents=True)
    network = OfficialV1Generator(35, width=2, hidden=3, norm="batch", noise_dim=8, start_size=(2, 4))
    torch.save(network.state_dict(), root / "latest_net_G.pth")


class Given:
    """Makes things once per session, below one folder, and copies them to where a page expects them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._makers: dict[str, Callable[[Path], None]] = {
            "mine": _pairs,
            "many": lambda root: _pairs(root, 20),
            "mine.yaml": lambda file: _text(file, ROBOTS),
            "cityscapes": _cityscapes,
            "coco": _coco,
            "edges2shoes": _shoes,
            "official-v1": _official_v1,
            "onnxruntime-web": _ort_web,
            "sunset.jpg": lambda file: _write(file, _pixels(7)),
            "run": self._run,
            "city": lambda folder: tiny_synthesizer("cityscapes").save(folder),
            "v1": lambda folder: tiny_synthesizer("mine.yaml", method="lab2pix-v1", progressive=True).save(folder),
            "style": lambda folder: tiny_synthesizer("mine.yaml", method="spade").save(folder),
            "segmenter": lambda folder: self._segmenter(folder, "--root mine --label-space mine.yaml"),
            "city-segmenter": lambda folder: self._segmenter(
                folder, "--root cityscapes --format cityscapes --label-space cityscapes"
            ),
            "reports": self._reports,
            "streets.yaml": lambda file: _text(file, "base: v2-small\nname: my-streets\n"),
        }

    def copy(self, name: str, to: Path, golden: Path | None) -> None:
        """Copy a thing, or a part of it such as `mine/labels/val`; files of `golden/` come from that folder."""
        thing, _, rest = name.partition("/")
        if thing == "examples":
            source = ROOT / name
        elif thing == "golden" and golden:
            source = golden / rest
        else:
            source = self.make(thing) / rest
        to.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, to)

    def make(self, name: str) -> Path:
        """Return the path of a thing, which is made if it is not there yet."""
        path = self.folder / name
        if not path.exists():
            here = Path.cwd()
            os.chdir(self.folder)
            try:
                self._makers[name](path)
            finally:
                os.chdir(here)
        return path

    def _run(self, folder: Path) -> None:
        for name in ("mine", "mine.yaml"):
            self.make(name)
        settings = ["data.format=folder", "data.root=mine", "data.label_space=mine.yaml", *TINY.split()]
        train("v2-small", settings, out=folder, device="cpu")

    def _segmenter(self, folder: Path, data: str) -> None:
        for name in ("mine", "mine.yaml", "cityscapes"):
            self.make(name)
        words = f"segmenter train {data} --size 32x32 --steps 20 --batch-size 2 --encoder tu-mobilenetv3_small_050"
        try:
            main([*words.split(), "--out", str(folder), "--device", "cpu"])
        except SystemExit as error:
            assert error.code == 0

    def _reports(self, folder: Path) -> None:
        folder.mkdir()
        photos = self.make("mine") / "images/val"
        for name in ("spade", "ours"):
            report = evaluate_folders(photos, photos, Protocol(), name=name, device="cpu")
            for number in (1, 2):
                report.save(folder / f"{name}-{number}.json")


def _text(file: Path, text: str) -> None:
    file.write_text(text)


TINY = (
    "generator.width=2 generator.modulation_hidden=4 generator.global_encoder.width=2 "
    "generator.global_encoder.max_width=4 discriminator.width=2 discriminator.max_width=4 train.batch_size=2 "
    "train.steps=1 data.scenes.train_count=4 data.scenes.val_count=2 monitor.samples=2 monitor.tensorboard=false"
)
"""Settings that make the networks and runs of Lab2Pix as small as they get."""

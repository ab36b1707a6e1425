"""Label maps of a dataset in format `folder`, for correction over their photos, at a size that the page can paint."""

from __future__ import annotations

import glob
import hashlib
import io
import threading
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from lab2pix.data.files import read_image
from lab2pix.data.formats import find_pairs, has_sources
from lab2pix.data.label_maps import write_label_png
from lab2pix.data.line_drawings import resize_label
from lab2pix.data.pairs import Pair
from lab2pix.data.transforms import resize_image, resize_nearest, to_pil
from lab2pix.errors import ConfigError, DataError
from lab2pix.inference.label_photos import CLASSES_FILE, read_records
from lab2pix.labels.space import LabelSpace
from lab2pix.utils.files import atomic_write, output_errors

FIRST_FOLDER = "first_labels"
"""Folder of the label maps as they were before their first correction."""
MAX_SIDE = 1024
"""Longest side of what the page paints; label maps keep their size."""


class LabelSet:
    """Pairs of a dataset whose label maps can be corrected.

    A correction replaces `labels/SPLIT/NAME`, which all commands read, after the first label map was kept as
    `first_labels/SPLIT/NAME`. Pixels that were not painted keep their ids at the size of the file.

    Args:
        root: the dataset.
        label_space: its classes, by name or as a file; None: its `classes.yaml`.

    Attributes:
        label_space: classes.
        pairs: pairs by token; those that `lab2pix label` was least sure of come first.

    Raises:
        ConfigError: there is no `classes.yaml`, and no label space is given.
        DataError: there is no such folder, or it has no pairs, or images to generate from instead of label maps.
        LabelError: the label space cannot be read.
    """

    def __init__(self, root: Path, label_space: str | None = None) -> None:
        if not root.is_dir():
            raise DataError(f"there is no folder {root}; give a dataset, such as one of `lab2pix label`")
        if label_space is None and not (root / CLASSES_FILE).exists():
            raise ConfigError(f"there is no {CLASSES_FILE} in {root}; name its classes with --label-space")
        if has_sources(root):
            raise DataError(f"{root} has images to generate from instead of label maps; give a dataset with labels")
        self.root, self._lock = root, threading.Lock()
        self.label_space = LabelSpace.load(label_space or root / CLASSES_FILE)
        certainty = {f"{photo.split}/{photo.name}": photo.certainty for photo in read_records(root)}
        pairs = sorted(find_pairs("folder", root, None), key=lambda pair: (certainty.get(pair.name, 1.0), pair.name))
        self.pairs: dict[str, Pair] = {hashlib.sha256(pair.name.encode()).hexdigest()[:16]: pair for pair in pairs}

    def is_corrected(self, token: str) -> bool:
        """Return whether a label map has been corrected."""
        return self._first(self.pairs[token]).exists()

    def label(self, token: str) -> Tensor:
        """Return a label map at the size of the page, `[H, W]` int64.

        Raises:
            DataError, LabelError: the label map cannot be read.
        """
        ids = self.pairs[token].read_label(self.label_space)
        return resize_label(ids, _page_size(ids), self.label_space)

    def photo(self, token: str) -> bytes:
        """Return a photo at the size of the page, as JPEG.

        Raises:
            DataError: the photo or its label map cannot be read.
        """
        pair, out = self.pairs[token], io.BytesIO()
        assert pair.image is not None
        size = _page_size(pair.read_label(self.label_space))
        to_pil(resize_image(read_image(pair.image), size)).save(out, format="JPEG", quality=90)
        return out.getvalue()

    def save(self, token: str, painted: Tensor) -> bool:
        """Write a corrected label map, and keep the first one.

        Args:
            token: token of the pair.
            painted: ids at the size of the page, `[H, W]`.

        Returns:
            Whether the label map changed.

        Raises:
            DataError: another size than that of the page.
            OutputError: a file cannot be written.
        """
        with self._lock:
            return self._save(token, painted)

    def _save(self, token: str, painted: Tensor) -> bool:
        pair = self.pairs[token]
        ids = pair.read_label(self.label_space)
        shown = resize_label(ids, _page_size(ids), self.label_space)
        if painted.shape != shown.shape:
            raise DataError(f"the label map is {tuple(shown.shape)} pixels (height, width), not {tuple(painted.shape)}")
        size = (int(ids.shape[0]), int(ids.shape[1]))
        changed = resize_nearest((painted != shown).long(), size) == 1
        if not changed.any():
            return False
        first, file = self._first(pair), pair.label.with_suffix(".png")
        with output_errors(file, "the label map is as it was; save it again once this is solved"):
            if not first.exists():
                with atomic_write(first) as [unfinished]:
                    unfinished.write_bytes(pair.label.read_bytes())
            with atomic_write(file) as [unfinished]:
                corrected = torch.where(changed, resize_nearest(painted, size), ids)
                write_label_png(unfinished, corrected, self.label_space)
            if file != pair.label:
                pair.label.unlink()
        self.pairs[token] = replace(pair, label=file)
        return True

    def _first(self, pair: Pair) -> Path:
        """Return where the first label map is kept, with the suffix of its file if that is not PNG."""
        file = self.root / FIRST_FOLDER / pair.label.relative_to(self.root / "labels")
        kept = (other for other in file.parent.glob(f"{glob.escape(file.stem)}.*") if other.stem == file.stem)
        return next(kept, file)


def _page_size(ids: Tensor) -> tuple[int, int]:
    """Return the height and width at which the page paints a label map."""
    scale = min(1.0, MAX_SIDE / max(ids.shape))
    return max(1, round(ids.shape[0] * scale)), max(1, round(ids.shape[1] * scale))

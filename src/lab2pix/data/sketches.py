"""Line drawings as label maps: from files, from edges in photos, or from class boundaries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lab2pix.config.schema import Alpha, DataConfig
from lab2pix.data.line_drawings import SKETCH, Lines, resize_lines
from lab2pix.data.pairs import Pair
from lab2pix.data.transforms import resize_image, resize_nearest
from lab2pix.errors import ConfigError
from lab2pix.labels.space import LabelSpace
from lab2pix.utils.extras import import_extra

_PHOTO_EDGES = "finding edges in photos (data.sketch.from=photo)"


@dataclass(frozen=True)
class Sketcher:
    """Creates the line drawing of a pair, ids 0 (blank) and 1 (line), at the networks' input size.

    Attributes:
        source: `files`: the label file is a drawing; `photo`: edge detection in the photo; `labels`: boundaries between
            the classes of the label map.
        lines: which pixels of a file are lines.
        label_space: label space of the drawings, or for `labels` that of the label maps.
        sigma: standard deviation of the blur before edge detection, in pixels.
        alpha: what becomes of transparency in photos.
    """

    source: Literal["files", "photo", "labels"]
    lines: Lines
    label_space: LabelSpace
    sigma: float
    alpha: Alpha = "drop"

    def read(self, pair: Pair, photo: Tensor | None = None) -> Tensor:
        """Read the source of the drawing at its original size.

        Args:
            pair: files of the sample.
            photo: the pair's photo `[3, H, W]` uint8, if it has been read already.

        Returns:
            A photo `[3, H, W]` uint8, or ids `[H, W]` int64: lines or classes.

        Raises:
            DataError: the file cannot be read.
            LabelError: the drawing has colors, or the label map has ids or colors outside its label space.
        """
        if self.source == "photo":
            return pair.read_image(self.alpha) if photo is None else photo
        return pair.read_label(self.label_space, self.lines)

    def draw(self, read: Tensor, size: tuple[int, int]) -> Tensor:
        """Create the drawing `[size]` int64 from the result of `read`."""
        if self.source == "photo":
            return find_edges(resize_image(read, size), self.sigma)
        return resize_lines(read, size) if self.source == "files" else borders(resize_nearest(read, size))


def find_edges(photo: Tensor, sigma: float) -> Tensor:
    """Detect the edges of a photo (Canny edge detector of scikit-image).

    Args:
        photo: `[3, H, W]` uint8 RGB.
        sigma: standard deviation of the blur, in pixels.

    Returns:
        `[H, W]` int64, 1 on edges.

    Raises:
        ConfigError: the extra `sketches` is not installed.
    """
    color, feature = (import_extra(f"skimage.{part}", "sketches", _PHOTO_EDGES) for part in ("color", "feature"))
    edges = feature.canny(color.rgb2gray(photo.permute(1, 2, 0).numpy()), sigma=sigma)
    return torch.from_numpy(edges).long()


def borders(ids: Tensor) -> Tensor:
    """Mark class boundaries of a label map `[H, W]` with lines of one pixel; returns `[H, W]` int64."""
    lines = torch.zeros_like(ids)
    lines[:, :-1] |= (ids[:, 1:] != ids[:, :-1]).long()
    lines[:-1] |= (ids[1:] != ids[:-1]).long()
    return lines


def sketcher_of(data: DataConfig, label_space: LabelSpace) -> Sketcher | None:
    """Create the sketcher of a configuration; None unless the label space is `sketch`.

    Raises:
        ConfigError: a sketch setting is missing or has no effect, or an extra is not installed.
    """
    sketch = data.sketch
    if sketch.lines != "auto" and (sketch.from_ != "files" or label_space.name != SKETCH):
        raise ConfigError(
            f"data.sketch.lines is '{sketch.lines}', but no line drawings are read from files (data.label_space is "
            f"'{label_space.name}', data.sketch.from '{sketch.from_}'); set it to auto"
        )
    if sketch.label_space is not None and sketch.from_ == "files":
        raise ConfigError(
            f"data.sketch.label_space is '{sketch.label_space}', but data.sketch.from is 'files', so no borders are "
            "drawn; set data.sketch.from=labels or data.sketch.label_space=null"
        )
    if label_space.name != SKETCH:
        if sketch.from_ != "files":
            raise ConfigError(
                f"data.sketch.from is '{sketch.from_}', which makes line drawings, but data.label_space is "
                f"'{label_space.name}'; set data.label_space=sketch or data.sketch.from=files"
            )
        return None
    if data.instance_edges:
        raise ConfigError("data.instance_edges is true, but line drawings show no instances; set it to false")
    space = label_space
    if sketch.from_ == "labels":
        if data.format == SKETCH and data.labels.root is None:
            raise ConfigError(
                "data.format is 'sketch', whose files hold line drawings, but data.sketch.from is 'labels'; set "
                "data.sketch.from=files data.sketch.label_space=null"
            )
        if sketch.label_space is None:
            raise ConfigError(
                "data.sketch.label_space is missing: data.sketch.from=labels must know how to read the label maps; "
                "name their label space"
            )
        space = LabelSpace.load(sketch.label_space)
    if sketch.from_ == "photo":
        import_extra("skimage", "sketches", _PHOTO_EDGES)  # fail before training starts
    return Sketcher(sketch.from_, sketch.lines, space, sketch.sigma, data.alpha)

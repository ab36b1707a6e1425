"""COCO-Stuff (164k): photos of COCO 2017, `stuffthingmaps`, and instance maps drawn from COCO's annotations."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import PurePosixPath
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lab2pix.data.prepare.core import Job, PublishedSet, Splits
from lab2pix.data.prepare.images import decode_image, encode_png
from lab2pix.data.prepare.sources import Listing, Member
from lab2pix.errors import DataError

_FIRST_INSTANCE = 256
"""Value of the first instance; smaller values are ids of classes."""


class _Annotation(NamedTuple):
    """An instance: category id of COCO, area in pixels, and polygons of coordinates x, y, x, y, ..."""

    image: int
    category: int
    area: float
    polygons: list[NDArray[np.float32]]


class _Annotations:
    """Instances of a split by image name, read when they are first asked for.

    Args:
        member: file `instances_*.json`.
    """

    def __init__(self, member: Member) -> None:
        self._member = member
        self._lock = Lock()

    def of(self, name: str) -> list[_Annotation]:
        """Return the instances of an image, largest first, without crowds.

        Raises:
            DataError: the file is damaged.
        """
        with self._lock:
            return self._by_name.get(name, [])

    @cached_property
    def _by_name(self) -> dict[str, list[_Annotation]]:
        try:
            content = json.loads(self._member.read(), object_hook=_compact)
            names = {image["id"]: PurePosixPath(image["file_name"]).stem for image in content["images"]}
            found = defaultdict(list)
            for annotation in content["annotations"]:
                if isinstance(annotation, _Annotation):
                    found[names[annotation.image]].append(annotation)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{self._member.path} is not a file of instances ({error!r}); download it again") from error
        return {name: sorted(some, key=lambda one: -one.area) for name, some in found.items()}


def _compact(entry: dict[str, Any]) -> Any:
    """Replace an annotation by a compact one while the file is read; those of crowds have no polygons and stay."""
    polygons = entry.get("segmentation")
    if not isinstance(polygons, list) or entry.get("iscrowd"):
        return entry
    arrays = [np.array(polygon, dtype=np.float32) for polygon in polygons if len(polygon) >= 6]
    return _Annotation(entry["image_id"], entry["category_id"], entry["area"], arrays)


def _draw_instances(labels: NDArray[np.uint8], annotations: Sequence[_Annotation]) -> NDArray[np.uint16]:
    """Draw an instance map: a number from 256 on for each instance, the id of the class elsewhere.

    An instance covers pixels of its own class only, and small instances cover large ones.
    """
    numbers = labels.astype(np.uint16)
    for number, annotation in enumerate(annotations, _FIRST_INSTANCE):
        mask = Image.new("L", (labels.shape[1], labels.shape[0]))
        for polygon in annotation.polygons:
            ImageDraw.Draw(mask).polygon((polygon - 0.5).tolist(), fill=1)
        # Files have COCO's ids minus 1.
        numbers[(np.asarray(mask) == 1) & (labels == annotation.category - 1)] = number
    return numbers


def _convert(contents: Sequence[bytes], member: Member, annotations: _Annotations) -> tuple[bytes, bytes]:
    """Return a label map as it is, and its instance map as PNG with 16 bits."""
    labels = np.array(decode_image(contents[0], member))
    if labels.dtype != np.uint8 or labels.ndim != 2:
        raise DataError(f"{member.path} is not a gray image of 8 bits; take those of stuffthingmaps_trainval2017.zip")
    return contents[0], encode_png(_draw_instances(labels, annotations.of(member.stem)))


def _plan(listing: Listing, required: Splits, _: Splits) -> list[Job]:
    jobs = []
    for split in required:
        photos = [member for _, member in listing.find(rf"{split}2017/[^/]+\.jpg")]
        labels = [member for _, member in listing.find(rf"{split}2017/[^/]+\.png")]
        instances = [member for _, member in listing.find(rf"instances_{split}2017\.json")]
        listing.require(photos, f"photos {split}2017/*.jpg", f"{split}2017.zip")
        listing.require(labels, f"label maps {split}2017/*.png", "stuffthingmaps_trainval2017.zip")
        listing.require(instances, f"file instances_{split}2017.json", "annotations_trainval2017.zip")
        jobs += [Job((f"{split}_img/{member.stem}.jpg",), (member,)) for member in photos]
        annotations = _Annotations(instances[0])
        for member in labels:
            targets = tuple(f"{split}_{kind}/{member.stem}.png" for kind in ("label", "inst"))
            jobs.append(Job(targets, (member,), partial(_convert, member=member, annotations=annotations)))
    return jobs


COCO_STUFF = PublishedSet("coco-stuff", "coco-stuff", "v2-coco-stuff", _plan)

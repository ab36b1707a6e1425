"""CMP Facades: Pix2Pix's selection, or the base and extended sets of the CMP Facade Database."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from lab2pix.data.image_file import ImageFile
from lab2pix.data.label_maps import decode_label
from lab2pix.data.prepare.core import Job, PublishedSet, Splits
from lab2pix.data.prepare.image_pairs import plan_image_pairs
from lab2pix.data.prepare.images import decode_image, encode_png
from lab2pix.data.prepare.sources import Listing, Member
from lab2pix.errors import DataError
from lab2pix.labels.space import LabelSpace

_DOWNLOADS = "facades.tar.gz of Pix2Pix, or CMP_facade_DB_base.zip and CMP_facade_DB_extended.zip,"
_HELD_OUT = 6
"""Of the CMP sets, every sixth facade is held out."""


def _plan(listing: Listing, required: Splits, optional: Splits) -> list[Job]:
    splits = (*required, *optional)
    pairs = plan_image_pairs(listing, "facades", splits)
    photos, labels = (
        {match[1]: member for match, member in listing.find(rf"(cmp_[bx]\d+)\.{suffix}")} for suffix in ("jpg", "png")
    )
    if pairs and photos:
        raise DataError(
            f"{listing.source} holds both Pix2Pix's facades and the CMP sets; name one archive or folder of them"
        )
    jobs = pairs or _join(photos, labels, splits)
    for split in required:
        there = any(job.targets[0].startswith(f"{split}/") for job in jobs)
        listing.require(there, f"facades of split '{split}'", _DOWNLOADS)
    return jobs


def _join(photos: dict[str, Member], labels: dict[str, Member], splits: Splits) -> list[Job]:
    """Return the jobs that put photo and colored label map of each CMP facade into one image."""
    alone = sorted(photos.keys() ^ labels.keys())
    if alone:
        member = photos.get(alone[0]) or labels[alone[0]]
        raise DataError(f"{member.path} has no partner (NAME.jpg and NAME.png belong together); download the set again")
    jobs = []
    for place, name in enumerate(sorted(photos)):
        split = "val" if place % _HELD_OUT == _HELD_OUT - 1 else "train"
        if split in splits:
            convert = partial(_convert, photo=photos[name], label=labels[name])
            jobs.append(Job((f"{split}/{name}.png",), (photos[name], labels[name]), convert))
    return jobs


def _convert(contents: Sequence[bytes], photo: Member, label: Member) -> tuple[bytes]:
    """Return a PNG of photo (left) and colored label map (right)."""
    space = LabelSpace.load("facades")
    left, right = (decode_image(content, member) for content, member in zip(contents, (photo, label), strict=True))
    if left.size != right.size:
        raise DataError(f"{photo.path} and {label.path} differ in size; download the set again")
    colors = space.to_colors(decode_label(ImageFile.of(right), space, label.path).ids)
    return (encode_png(np.concatenate([np.asarray(left.convert("RGB")), colors.permute(1, 2, 0).numpy()], axis=1)),)


FACADES = PublishedSet("facades", "facades", "v2-facades", _plan, more_splits=("test",))

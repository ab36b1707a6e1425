"""Cityscapes: photos of `leftImg8bit`, and the label and instance maps of `gtFine`."""

from __future__ import annotations

from lab2pix.data.prepare.core import Job, PublishedSet, Splits
from lab2pix.data.prepare.sources import Listing

_FILES = r"(leftImg8bit|gtFine)/(\w+)/([^/]+/[^/]+_(leftImg8bit|gtFine_labelIds|gtFine_instanceIds)\.png)"
_PARTS = {
    "leftImg8bit": ("photos", "leftImg8bit_trainvaltest.zip"),
    "gtFine_labelIds": ("label maps", "gtFine_trainvaltest.zip"),
    "gtFine_instanceIds": ("instance maps", "gtFine_trainvaltest.zip"),
}


def _plan(listing: Listing, required: Splits, _: Splits) -> list[Job]:
    jobs, found = [], set()
    for match, member in listing.find(_FILES):
        kind, split, name, part = match.groups()
        if split in required:
            found.add((split, part))
            jobs.append(Job((f"{kind}/{split}/{name}",), (member,)))
    for split in required:
        for part, (what, download) in _PARTS.items():
            listing.require((split, part) in found, f"{what} of split '{split}' (*_{part}.png)", download)
    return jobs


CITYSCAPES = PublishedSet("cityscapes", "cityscapes", "v2-cityscapes", _plan)

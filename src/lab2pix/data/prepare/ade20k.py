"""ADE20K in the form of the scene parsing benchmark, ADEChallengeData2016."""

from __future__ import annotations

from lab2pix.data.prepare.core import Job, PublishedSet, Splits
from lab2pix.data.prepare.sources import Listing

_FILES = r"(images/(training|validation)/[^/]+\.jpg|annotations/(training|validation)/[^/]+\.png)"
_FOLDERS = {"train": "training", "val": "validation"}


def _plan(listing: Listing, required: Splits, _: Splits) -> list[Job]:
    jobs, found = [], set()
    folders = {_FOLDERS[split] for split in required}
    for match, member in listing.find(_FILES):
        kind, folder = match[1].split("/")[:2]
        if folder in folders:
            found.add((kind, folder))
            jobs.append(Job((f"ADEChallengeData2016/{match[1]}",), (member,)))
    for split in required:
        for kind in ("images", "annotations"):
            what = f"folder {kind}/{_FOLDERS[split]} of the scene parsing benchmark"
            listing.require((kind, _FOLDERS[split]) in found, what, "ADEChallengeData2016.zip")
    return jobs


ADE20K = PublishedSet("ade20k", "ade20k", "v2-ade20k", _plan)

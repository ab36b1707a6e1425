"""Datasets of Pix2Pix with both images of a pair in one file: facades, edges2shoes, edges2handbags."""

from __future__ import annotations

from lab2pix.data.prepare.core import Job, PublishedSet, Splits
from lab2pix.data.prepare.sources import Listing

__all__ = ["EDGES2HANDBAGS", "EDGES2SHOES", "plan_image_pairs"]

_NAMES = {"cityscapes", "edges2handbags", "edges2shoes", "facades", "maps", "night2day"}
"""Datasets of Pix2Pix, which may be in one folder of downloads."""


def plan_image_pairs(listing: Listing, name: str, splits: Splits) -> list[Job]:
    """Return the jobs that copy the files of one of Pix2Pix's datasets, `SPLIT/NAME.jpg`.

    Args:
        listing: the download; a folder or an archive with the name of another dataset is passed over.
        name: name of the dataset.
        splits: splits to look for.
    """
    jobs = []
    for match, member in listing.find(r"(train|val|test)/([^/]+\.(?:jpg|png))"):
        names = {part.partition(".")[0] for part in member.path.split("/")} & _NAMES
        if match[1] in splits and (not names or name in names):
            jobs.append(Job((f"{match[1]}/{match[2]}",), (member,)))
    return jobs


def _sketches(name: str) -> PublishedSet:
    def plan(listing: Listing, required: Splits, _: Splits) -> list[Job]:
        jobs = plan_image_pairs(listing, name, required)
        for split in required:
            there = any(job.targets[0].startswith(f"{split}/") for job in jobs)
            listing.require(there, f"images {name}/{split}/*.jpg", f"{name}.tar.gz")
        return jobs

    return PublishedSet("sketch", "sketch", f"v1-{name}", plan)


EDGES2SHOES, EDGES2HANDBAGS = _sketches("edges2shoes"), _sketches("edges2handbags")

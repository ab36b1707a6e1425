"""CamVid in its three common forms, with its 32 classes merged into the 11 of the usual benchmark.

- The original: photos `NAME.png` and colored label maps `NAME_L.png`, without splits.
- SegNet's: `train/NAME.png` and `trainannot/NAME.png` with ids 0 to 11; likewise `val` and `test`.
- Colored label maps in splits: `train/NAME.png` and `train_labels/NAME_L.png`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, partial

import numpy as np

from lab2pix.data.image_file import ImageFile
from lab2pix.data.label_maps import decode_label
from lab2pix.data.prepare.core import Job, PublishedSet, Splits
from lab2pix.data.prepare.images import decode_image, encode_png
from lab2pix.data.prepare.sources import Listing, Member
from lab2pix.labels.space import LabelSpace

_MERGED: dict[str, list[tuple[str, tuple[int, int, int]]]] = {
    "sky": [("Sky", (128, 128, 128))],
    "building": [
        *(("Archway", (192, 0, 128)), ("Bridge", (0, 128, 64)), ("Building", (128, 0, 0))),
        *(("Tunnel", (64, 0, 64)), ("Wall", (64, 192, 0))),
    ],
    "pole": [("Column_Pole", (192, 192, 128)), ("TrafficCone", (0, 0, 64))],
    "road": [("LaneMkgsDriv", (128, 0, 192)), ("LaneMkgsNonDriv", (192, 0, 64)), ("Road", (128, 64, 128))],
    "pavement": [("ParkingBlock", (64, 192, 128)), ("RoadShoulder", (128, 128, 192)), ("Sidewalk", (0, 0, 192))],
    "tree": [("Tree", (128, 128, 0)), ("VegetationMisc", (192, 192, 0))],
    "sign": [("Misc_Text", (128, 128, 64)), ("SignSymbol", (192, 128, 128)), ("TrafficLight", (0, 64, 64))],
    "fence": [("Fence", (64, 64, 128))],
    "car": [
        *(("Car", (64, 0, 128)), ("OtherMoving", (128, 64, 64)), ("SUVPickupTruck", (64, 128, 192))),
        *(("Train", (192, 64, 128)), ("Truck_Bus", (192, 128, 192))),
    ],
    "pedestrian": [
        *(("Animal", (64, 128, 64)), ("CartLuggagePram", (64, 0, 192))),
        *(("Child", (192, 128, 64)), ("Pedestrian", (64, 64, 0))),
    ],
    "bicyclist": [("Bicyclist", (0, 128, 192)), ("MotorcycleScooter", (192, 0, 192))],
    "unlabeled": [("Void", (0, 0, 0))],
}
"""Names and colors of CamVid's classes by the class that they become; the order is that of the ids 0 to 11."""

_ORIGINAL = [entry for entries in _MERGED.values() for entry in entries]
_TABLE = np.array([new for new, entries in enumerate(_MERGED.values()) for _ in entries], dtype=np.uint8)
_FRAME = r"(?:([^/]+)/)?((?:0001TP|0006R0|0016E5|Seq05VD)_f?\d+)(_L)?\.(?:png|jpg)"
_LABEL_FOLDER = re.compile(r"(train|val|test)(?:annot|_labels)")


def _split_of(name: str) -> str:
    """Return the split of a frame in SegNet's division of the original set (367, 101 and 233 frames)."""
    drive, number = name.split("_")
    frame = int(number.removeprefix("f"))
    if drive == "0016E5" and 7959 <= frame <= 8159:
        return "val"
    return "test" if drive == "Seq05VD" or (drive == "0001TP" and frame > 8520) else "train"


def _plan(listing: Listing, required: Splits, optional: Splits) -> list[Job]:
    photos: dict[tuple[str, str], Member] = {}
    labels: dict[tuple[str, str], tuple[Member, bool]] = {}
    for match, member in listing.find(_FRAME):
        folder, name, colored = match[1] or "", match[2], match[3] is not None
        in_labels = _LABEL_FOLDER.fullmatch(folder)
        split = in_labels[1] if in_labels else folder if folder in ("train", "val", "test") else _split_of(name)
        if in_labels or colored:
            labels.setdefault((split, name), (member, colored))
        else:
            photos.setdefault((split, name), member)
    for split in required:
        for found, what, download in (
            (photos, "photos", "701_StillsRaw_full.zip, or SegNet's folder CamVid,"),
            (labels, "label maps", "LabeledApproved_full.zip, or SegNet's folder CamVid,"),
        ):
            listing.require(any(key[0] == split for key in found), f"{what} of split '{split}'", download)
    jobs = []
    for (split, name), member in photos.items():
        if split in (*required, *optional):
            suffix = member.path.rpartition(".")[2]
            jobs.append(Job((f"images/{split}/{name}.{suffix}",), (member,)))
    for (split, name), (member, colored) in labels.items():
        if split in (*required, *optional):
            convert = partial(_convert, member=member) if colored else None
            jobs.append(Job((f"labels/{split}/{name}.png",), (member,), convert))
    return jobs


def _convert(contents: Sequence[bytes], member: Member) -> tuple[bytes]:
    """Return a colored label map as gray PNG of the merged ids."""
    image = decode_image(contents[0], member).convert("RGB")
    return (encode_png(_TABLE[decode_label(ImageFile.of(image), _original_space(), member.path).ids.numpy()]),)


@cache
def _original_space() -> LabelSpace:
    classes = [{"name": name, "color": list(color)} for name, color in _ORIGINAL]
    return LabelSpace.from_dict({"name": "CamVid's 32 classes", "classes": classes})


_TRAIN = "v2-small data.format=folder data.label_space=camvid 'data.size=[96,128]' 'data.resize=[104,140]'"
CAMVID = PublishedSet("folder", "camvid", _TRAIN, _plan, more_splits=("test",))

"""Published datasets: from what is downloaded to what presets read."""

from __future__ import annotations

from lab2pix.data.prepare.ade20k import ADE20K
from lab2pix.data.prepare.camvid import CAMVID
from lab2pix.data.prepare.cityscapes import CITYSCAPES
from lab2pix.data.prepare.coco_stuff import COCO_STUFF
from lab2pix.data.prepare.core import PublishedSet, prepare_set
from lab2pix.data.prepare.facades import FACADES
from lab2pix.data.prepare.image_pairs import EDGES2HANDBAGS, EDGES2SHOES

__all__ = ["PUBLISHED_SETS", "PublishedSet", "prepare_set"]

PUBLISHED_SETS = {
    "ade20k": ADE20K,
    "camvid": CAMVID,
    "cityscapes": CITYSCAPES,
    "coco-stuff": COCO_STUFF,
    "edges2handbags": EDGES2HANDBAGS,
    "edges2shoes": EDGES2SHOES,
    "facades": FACADES,
}
"""Published datasets that can be prepared, by name."""

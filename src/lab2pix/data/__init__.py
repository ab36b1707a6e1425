"""Datasets: formats, file readers, transforms, and paired, unpaired and procedural datasets."""

from __future__ import annotations

from lab2pix.data.build import build_dataset
from lab2pix.data.datasets import PairDataset, UnpairedDataset
from lab2pix.data.files import read_image
from lab2pix.data.formats import find_pairs
from lab2pix.data.label_maps import read_instances, read_label, write_label_png
from lab2pix.data.pairs import Pair, PairList
from lab2pix.data.samples import Sample, collate
from lab2pix.data.sketches import Sketcher, find_edges
from lab2pix.data.transforms import JointTransform, instance_edges

__all__ = [
    "JointTransform",
    "Pair",
    "PairDataset",
    "PairList",
    "Sample",
    "Sketcher",
    "UnpairedDataset",
    "build_dataset",
    "collate",
    "find_edges",
    "find_pairs",
    "instance_edges",
    "read_image",
    "read_instances",
    "read_label",
    "write_label_png",
]

"""Registry of dataset formats, label spaces and packages with models; importing it is cheap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class DatasetFormat:
    """Folder layout of a dataset.

    Attributes:
        description: layout in one line.
        scan: function that finds the pairs, as `module:function`; None: the format has no folders of files.
        label_space: label space of the label maps; None: any.
    """

    description: str
    scan: str | None
    label_space: str | None


_FORMATS = "lab2pix.data.formats"

DATASET_FORMATS = {
    "ab": DatasetFormat("SPLIT/NAME.*, input left and photo right", f"{_FORMATS}:scan_ab", None),
    "ade20k": DatasetFormat(
        "ADEChallengeData2016/images/{training,validation}/*.jpg and annotations/{training,validation}/*.png",
        f"{_FORMATS}:scan_ade20k",
        "ade20k",
    ),
    "ba": DatasetFormat("SPLIT/NAME.*, photo left and input right", f"{_FORMATS}:scan_ba", None),
    "cityscapes": DatasetFormat(
        "leftImg8bit/SPLIT/CITY/*_leftImg8bit.png and gtFine/SPLIT/CITY/*_gtFine_labelIds.png, *_instanceIds.png",
        f"{_FORMATS}:scan_cityscapes",
        "cityscapes",
    ),
    "coco-stuff": DatasetFormat(
        "SPLIT_img/NAME.jpg, SPLIT_label/NAME.png, optional SPLIT_inst/NAME.png",
        f"{_FORMATS}:scan_coco_stuff",
        "coco-stuff",
    ),
    "facades": DatasetFormat("SPLIT/*.jpg, photo left and colored labels right", f"{_FORMATS}:scan_facades", "facades"),
    "facades-base": DatasetFormat(
        "NAME.jpg and palette NAME.png in one folder", f"{_FORMATS}:scan_facades_base", "facades"
    ),
    "folder": DatasetFormat(
        "images/[SPLIT/]NAME.* and labels/ or sources/[SPLIT/]NAME.*, optional instances/; sub-folders kept",
        f"{_FORMATS}:scan_folder",
        None,
    ),
    "scenes": DatasetFormat("no files: procedural landscapes", None, "scenes"),
    "shards": DatasetFormat(
        "[SPLIT/|SPLIT-]NAME.tar with an index (`lab2pix data index`), by path or URL: KEY.image.*, KEY.label.*",
        None,
        None,
    ),
    "sketch": DatasetFormat("SPLIT/*.jpg, sketch left and photo right", f"{_FORMATS}:scan_sketches", "sketch"),
    "unaligned": DatasetFormat(
        "SPLITA/NAME.* (inputs) and SPLITB/NAME.* (photos), which are not pairs", f"{_FORMATS}:scan_unaligned", None
    ),
}
"""All dataset formats, by name."""


MODEL_PACKAGES = {"landscapes": "pip install ./models/landscapes"}
"""Models of this repository in packages of their own, with the command that installs them from a clone."""


def model_folders() -> dict[str, list[Path]]:
    """Return the folders of installed packages with models, by name of the model; imports none of them.

    Such a package declares `NAME = "its_module"` in the entry-point group `lab2pix.models`.
    """
    specs = {entry.name: find_spec(entry.value) for entry in entry_points(group="lab2pix.models")}
    return {
        name: [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]
        for name, spec in specs.items()
    }


def why_missing(kind: str, name: str, file: str, folders: Mapping[str, Sequence[Path]]) -> str | None:
    """Return why a package does not provide its model or segmenter, as a sentence with the cure.

    Args:
        kind: `model` or `segmenter`.
        name: name of the model.
        file: file that is missing.
        folders: the installed packages, see `model_folders`.

    Returns:
        The sentence; None if no package, installed or not, has this name.
    """
    if name in folders:
        return (
            f"the package of the {kind} {name} is installed, but holds no {file}; write it as the package's README "
            f"says, or give another {kind}"
        )
    if name in MODEL_PACKAGES:
        return (
            f"the {kind} {name} comes in a package of its own, which is not installed; run `{MODEL_PACKAGES[name]}` in "
            "a clone of the repository"
        )
    return None


def label_space_names() -> list[str]:
    """Return the sorted names of the built-in label spaces; opens no file."""
    folder = files("lab2pix") / "labels" / "spaces"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def is_yaml(path: str) -> bool:
    """Return whether a path ends as YAML files do, in capitals or not."""
    return path.lower().endswith((".yaml", ".yml"))

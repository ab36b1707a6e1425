"""Tiny downloads in the form of the published ones."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from lab2pix.data.prepare.camvid import _ORIGINAL
from lab2pix.labels.space import LabelSpace

SIZE = (12, 16)
"""Height and width of the images."""


def image(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=kind)
    return file.getvalue()


def photo(seed: int = 0, kind: str = "PNG") -> bytes:
    return image(np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8), kind)


def ids(*values: int, dtype: type = np.uint8) -> np.ndarray:
    """Columns of ids, equally wide."""
    return np.repeat(np.array(values, dtype=dtype), SIZE[1] // len(values))[None].repeat(SIZE[0], 0)


def write_zip(path: Path, files: Mapping[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def write_tar(path: Path, files: Mapping[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def cityscapes_files() -> tuple[dict[str, bytes], dict[str, bytes]]:
    photos, labels = {"README": b"", "license.txt": b""}, {"README": b"", "license.txt": b""}
    for split, city in (("train", "aachen"), ("train", "ulm"), ("val", "lindau"), ("test", "berlin")):
        name = f"{split}/{city}/{city}_000000_000019"
        photos[f"leftImg8bit/{name}_leftImg8bit.png"] = photo(len(photos))
        labels[f"gtFine/{name}_gtFine_color.png"] = photo()
        labels[f"gtFine/{name}_gtFine_instanceIds.png"] = image(ids(7, 26001, dtype=np.uint16))
        labels[f"gtFine/{name}_gtFine_labelIds.png"] = image(ids(7, 26))
        labels[f"gtFine/{name}_gtFine_polygons.json"] = b"{}"
    return photos, labels


def write_coco(folder: Path) -> None:
    """Two persons side by side, one before a bus (category 6), and a crowd."""
    maps, names = {}, {}
    label = ids(0, 0, 5, 255)
    label[0] = 123
    for split, number in (("train", 9), ("val", 139)):
        name = f"{number:012d}"
        write_zip(folder / f"{split}2017.zip", {f"{split}2017/{name}.jpg": photo(number, "JPEG")})
        maps[f"{split}2017/{name}.png"] = image(label)
        names[f"annotations/captions_{split}2017.json"] = b"{}"
        boxes = [(1, 0, 0, 4, 12), (1, 4, 0, 12, 12), (6, 4, 0, 12, 12)]  # category, left, top, right, bottom
        annotations = [
            {
                "id": place,
                "image_id": number,
                "category_id": category,
                "iscrowd": 0,
                "area": (right - left) * (bottom - top),
                "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
            }
            for place, (category, left, top, right, bottom) in enumerate(boxes)
        ]
        crowd = {"id": 9, "image_id": number, "category_id": 1, "iscrowd": 1, "area": 4}
        annotations.append(crowd | {"segmentation": {"counts": [0, 4], "size": list(SIZE)}})
        images = [{"id": number, "file_name": f"{name}.jpg", "height": SIZE[0], "width": SIZE[1]}]
        content = {"images": images, "annotations": annotations, "categories": []}
        names[f"annotations/instances_{split}2017.json"] = json.dumps(content).encode()
    write_zip(folder / "stuffthingmaps_trainval2017.zip", maps)
    write_zip(folder / "annotations_trainval2017.zip", names)


def ade20k_files() -> dict[str, bytes]:
    files = {"ADEChallengeData2016/objectInfo150.txt": b"", "ADEChallengeData2016/sceneCategories.txt": b""}
    for folder, name in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        files[f"ADEChallengeData2016/images/{folder}/{name}.jpg"] = photo(1, "JPEG")
        files[f"ADEChallengeData2016/annotations/{folder}/{name}.png"] = image(ids(0, 1, 2, 150))
    return files


def facade_pair() -> bytes:
    """Photo left and colored label map right."""
    colors = np.array([item.color for item in LabelSpace.load("facades").classes], dtype=np.uint8)
    right = colors[np.arange(12).repeat(32)][None].repeat(64, 0)
    return image(np.concatenate([np.full_like(right, 90), right], axis=1), "JPEG")


def cmp_files(letter: str, folder: str, count: int) -> dict[str, bytes]:
    """A set of the CMP Facade Database."""
    files = {}
    palette = [0, 0, 0, *(value for item in LabelSpace.load("facades").classes for value in item.color)]
    label = Image.fromarray(ids(1, 2, 3, 12))
    label.putpalette(palette)
    file = io.BytesIO()
    label.save(file, format="PNG")
    for number in range(1, count + 1):
        name = f"{folder}/cmp_{letter}{number:04d}"
        files |= {f"{name}.jpg": photo(number, "JPEG"), f"{name}.png": file.getvalue(), f"{name}.xml": b"<object/>"}
    return files


def sketch_pair() -> bytes:
    both = np.full((SIZE[0], 2 * SIZE[1], 3), 255, dtype=np.uint8)
    both[3, : SIZE[1]] = 0
    both[:, SIZE[1] :] = (200, 0, 0)
    return image(both, "JPEG")


FRAMES = {"train": "0006R0_f00930", "val": "0016E5_07959", "test": "Seq05VD_f00000"}
"""A frame of each split of CamVid."""


def camvid_files(form: str) -> dict[str, bytes]:
    """CamVid in one of its forms; each label map has sidewalk, parking block, void and truck."""
    colors = dict(_ORIGINAL)
    wanted = ("Sidewalk", "ParkingBlock", "Void", "Truck_Bus")
    colored = image(np.array([colors[name] for name in wanted], dtype=np.uint8)[ids(0, 1, 2, 3)])
    files = {}
    for split, frame in FRAMES.items():
        if form == "original":
            files |= {f"701_StillsRaw_full/{frame}.png": photo(), f"LabeledApproved_full/{frame}_L.png": colored}
        elif form == "segnet":
            merged = image(ids(4, 4, 11, 8))
            files |= {f"CamVid/{split}/{frame}.png": photo(), f"CamVid/{split}annot/{frame}.png": merged}
        else:
            files |= {f"CamVid/{split}/{frame}.png": photo(), f"CamVid/{split}_labels/{frame}_L.png": colored}
    return files

"""A small dataset of label maps and photos, as `lab2pix label` writes it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

from lab2pix.data.label_maps import write_label_png
from lab2pix.labels.space import LabelSpace

SPACE = LabelSpace.load("scenes")
SKY, GRASS = 0, 7
SURE = {"train/a": 0.9, "train/sub/b": 0.4, "val/c": 0.7}
"""How sure the labels of each pair are."""


def write_label_set(root: Path, size: tuple[int, int] = (48, 64)) -> Path:
    """Write pairs of sky over grass; the photos are twice as bright in the upper half."""
    ids = torch.full(size, SKY)
    ids[size[0] // 2 :] = GRASS
    pixels = np.where(ids[..., None] == SKY, 200, 100).astype(np.uint8).repeat(3, -1)
    for name in SURE:
        split, _, rest = name.partition("/")
        for kind, suffix in (("labels", "png"), ("images", "png")):
            (root / kind / split / rest).parent.mkdir(parents=True, exist_ok=True)
            file = root / kind / split / f"{rest}.{suffix}"
            write_label_png(file, ids, SPACE) if kind == "labels" else Image.fromarray(pixels).save(file)
    (root / "classes.yaml").write_text(yaml.safe_dump(SPACE.to_dict()))
    records = [
        {"name": name.split("/", 1)[1], "split": name.split("/")[0], "photo": "", "certainty": sure, "shares": {}}
        for name, sure in SURE.items()
    ]
    (root / "labeling.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return root

"""Classes of new label maps: those of a segmenter, merged, renamed or dropped by a YAML file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from lab2pix.errors import LabelError, did_you_mean
from lab2pix.labels.space import LabelSpace
from lab2pix.utils.text import reason_of
from lab2pix.utils.yaml_text import parse_yaml

_UNKNOWN = 255


@dataclass(frozen=True)
class ClassMapping:
    """How the classes of a segmenter become those of new label maps.

    Attributes:
        space: label space of the label maps; it has unknown, for dropped classes and unsure pixels.
        table: class of each of the segmenter's classes, `[C]` int64; `space.num_classes` where it is dropped.
    """

    space: LabelSpace
    table: Tensor

    @classmethod
    def keep(cls, own: LabelSpace, name: str) -> ClassMapping:
        """Keep all classes of a segmenter."""
        unknown = own.num_classes if own.num_classes > _UNKNOWN else _UNKNOWN
        classes = own.to_dict()["classes"]
        space = LabelSpace.from_dict({"name": name, "unknown_value": unknown, "classes": classes})
        return cls(space, torch.arange(own.num_classes))

    @classmethod
    def read(cls, file: Path, own: LabelSpace) -> ClassMapping:
        """Read a label space whose classes may list those of the segmenter that they consist of.

        Each entry of `classes` is as in a label space, and may have `from`, a list of the segmenter's classes; the
        default is the class of the same name. Classes of the segmenter that no entry takes become unknown.

        Args:
            file: YAML file.
            own: classes of the segmenter.

        Raises:
            LabelError: the file cannot be read, names a class that the segmenter does not have, or takes one twice.
        """
        try:
            data = parse_yaml(file.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise LabelError(f"{file} cannot be read as YAML ({reason_of(error)}); correct the file") from error
        if not isinstance(data, dict) or not isinstance(data.get("classes"), list):
            raise LabelError(f"{file} does not list its classes under 'classes'; see the guide's page on labeling")
        plain: list[Any] = []
        sources: list[list[str]] = []
        for entry in data["classes"]:
            given = dict(entry) if isinstance(entry, dict) else {"name": entry}
            taken = given.pop("from", [given.get("name")])
            sources.append([taken] if isinstance(taken, str) else list(taken))
            plain.append(given)
        values = {"name": file.stem, "unknown_value": _UNKNOWN, **data, "classes": plain}
        space = LabelSpace.from_dict(values, where=str(file))
        if space.unknown_value is None:
            raise LabelError(f"{file} sets 'unknown_value' to null, but unsure pixels need one; leave it out")
        table = torch.full((own.num_classes,), space.num_classes)
        for number, names in enumerate(sources):
            for name in names:
                if name not in own.names:
                    raise LabelError(
                        f"{file}: class '{space.names[number]}' takes '{name}', which the segmenter does not have"
                        f"{did_you_mean(str(name), own.names)}"
                    )
                place = own.names.index(name)
                if table[place] != space.num_classes:
                    raise LabelError(f"{file}: two classes take '{name}'; list it under one of them")
                table[place] = number
        return cls(space, table)

    def merge(self, probabilities: Tensor) -> Tensor:
        """Sum the probabilities of merged classes: `[C, H, W]` to `[space.num_classes + 1, H, W]`, the last unknown."""
        merged = probabilities.new_zeros(self.space.num_classes + 1, *probabilities.shape[1:])
        return merged.index_add_(0, self.table.to(probabilities.device), probabilities)

"""Convert the networks of a run from the format of version 0.1.0 (`lab2pix-1`) to that of this version.

    python -m tools.convert_run OLD NEW

OLD is a run folder (its newest checkpoint counts), a checkpoint or an exported model. NEW gets `model.safetensors` and
`config.json`, and `training.safetensors` with all networks where OLD has them, so that `generate`, `export` and
`train.init_from` take it. Optimizers and counters are not converted: a run does not resume from it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from lab2pix.errors import CheckpointError, Lab2PixError, OutputError
from lab2pix.inference.weights import FORMAT
from lab2pix.methods import get_method, read_config

OLD_FORMAT = "lab2pix-1"

RENAMED_SETTINGS = {
    "data.format": "data.format",
    "generator.doublings": "generator.num_upsamples",
    "generator.start": "generator.input",
    "loss.nearest_of": "loss.imle_candidates",
    "optimizer.discriminator_every": "optimizer.discriminator_interval",
    "train.init_from": "train.init_from",
}

# Settings that `loss.variant` chooses together now, with the values of the variant `paper`.
VARIANT_SETTINGS: dict[str, Any] = {
    "loss.adversarial_reduction": "mean",
    "loss.feature_matching_reduction": "mean",
    "loss.discriminator_halved": True,
    "loss.sharpness_normalized": False,
    "loss.foreground_per_image": True,
    "loss.perceptual_scales": "all",
    "loss.consistency_form": "squared",
    "loss.consistency_layers": "second",
    "backbone.normalize": True,
    "backbone.normalize_discriminator": True,
}

RENAMED_WEIGHTS = [
    (r"^generator\.generator\.", "generator."),
    (r"^generator\.segmenters\.", "segmenters."),
    (r"^generator\.reader\.", "segmentation_head."),
    (r"^(discriminator\.networks\.\d+)\.fuse\.", r"\1.fusion."),
    (r"^(discriminator\.networks\.\d+)\.deeper\.", r"\1.stages."),
]


def convert_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return a run's settings under their present names, without those that its method has no more.

    Raises:
        CheckpointError: what is left does not fit this version.
    """
    flat = _flatten(config)
    others = [key for key, default in VARIANT_SETTINGS.items() if flat.pop(key, default) != default]
    if "loss.adversarial" in flat:
        flat["loss.variant"] = "official" if others else "paper"
    flat = {RENAMED_SETTINGS.get(key, key): value for key, value in flat.items()}
    known = set(_flatten(_defaults(config["method"])))
    dictionaries = {"backbone.weights"}
    kept = {key: value for key, value in flat.items() if key in known or key.rpartition(".")[0] in dictionaries}
    try:
        return read_config(_nest(kept)).model_dump(mode="json")
    except ValueError as error:
        raise CheckpointError(f"the settings of this run do not fit this version: {error}") from error


def convert_weights(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of `training.safetensors` under their present names."""
    renamed = {}
    for name, tensor in tensors.items():
        for pattern, replacement in RENAMED_WEIGHTS:
            name = re.sub(pattern, replacement, name)  # noqa: PLW2901 - one rule after another
        renamed[name] = tensor
    return renamed


def convert(old: Path, new: Path) -> None:
    """Write the networks of `old` to the new or empty folder `new`.

    Raises:
        CheckpointError: there is no model of the old format.
        OutputError: the folder holds something.
    """
    source = max((old / "checkpoints").glob("step-*"), default=old)
    if not (source / "config.json").is_file() or not (source / "model.safetensors").is_file():
        raise CheckpointError(f"{source} holds no config.json and model.safetensors; give a run or an exported model")
    description = json.loads((source / "config.json").read_text(encoding="utf-8"))
    if description.get("format") != OLD_FORMAT:
        raise CheckpointError(f"{source} has format {description.get('format')!r}, not '{OLD_FORMAT}'")
    if new.exists() and any(new.iterdir()):
        raise OutputError(f"{new} is not empty; give a new folder")
    description |= {"format": FORMAT, "config": convert_config(description["config"])}
    new.mkdir(parents=True, exist_ok=True)
    save_file(load_file(source / "model.safetensors"), new / "model.safetensors", metadata={"format": "pt"})
    training = source / "training.safetensors"
    if training.is_file():
        save_file(convert_weights(load_file(training)), new / training.name, metadata={"format": "pt"})
    (new / "config.json").write_text(json.dumps(description, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _defaults(method: str) -> dict[str, Any]:
    defaults: dict[str, Any] = get_method(method).Config(method=method, name="any").model_dump(mode="json")
    return defaults


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _nest(flat: dict[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        *groups, key = path.split(".")
        place = nested
        for group in groups:
            place = place.setdefault(group, {})
        place[key] = value
    return nested


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    given = parser.parse_args()
    try:
        convert(given.old, given.new)
    except Lab2PixError as error:
        sys.exit(f"Error: {error}")
    print(f"{given.new}: networks of {given.old}")


if __name__ == "__main__":
    main()

"""Write a package's weights: the generator of a run, and with it a segmenter, in half precision and without paths.

python -m tools.pack_model RUN --segmenter SEGMENTER --out models/landscapes/src/lab2pix_landscapes

RUN is whatever `Synthesizer.load` takes; SEGMENTER is a folder of `lab2pix segmenter train`. Files of the same names
are replaced.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from lab2pix import LabelSpace, Synthesizer
from lab2pix.errors import OutputError
from lab2pix.evaluation.segmenters import SEGMENTER_FILE
from lab2pix.inference.weights import WEIGHTS_FILE
from lab2pix.methods import read_config
from lab2pix.utils.registry import label_space_names
from lab2pix.utils.tensors import save_tensors

MOST_BYTES = 16_000_000
"""Largest sum of both weights files."""


def without_paths(value: Any) -> Any:
    """Return plain values in which a path outside the working folder is its last component alone."""
    if isinstance(value, dict):
        return {key: without_paths(part) for key, part in value.items()}
    if isinstance(value, list):
        return [without_paths(part) for part in value]
    return Path(value).name if isinstance(value, str) and value.startswith(("/", "~", "..")) else value


def pack(run: Path, segmenter: Path | None, out: Path) -> int:
    """Write the files, and return the size of the weights in bytes.

    Raises:
        CheckpointError: there is no such run.
        OutputError: the weights are too large, or overflow float16.
    """
    model = Synthesizer.load(run, device="cpu")
    config, space = read_config(without_paths(model.config.model_dump(mode="json"))), model.label_space
    if space.name in label_space_names() and LabelSpace.load(space.name).fingerprint() == space.fingerprint():
        space = LabelSpace.load(space.name)  # its colors and titles of today
    model.info = model.info._replace(config=config, label_space=space)
    files = [model.save(out, overwrite=True, half=True) / WEIGHTS_FILE]
    if segmenter is not None:
        (out / "segmenter").mkdir(exist_ok=True)
        tensors = load_file(segmenter / WEIGHTS_FILE)
        files.append(out / "segmenter" / WEIGHTS_FILE)
        save_tensors({name: tensor.half() for name, tensor in tensors.items()}, files[-1])
        shutil.copy(segmenter / SEGMENTER_FILE, out / "segmenter")
    size = sum(file.stat().st_size for file in files)
    if size > MOST_BYTES:
        raise OutputError(
            f"the weights have {size / 1e6:.1f} MB, more than {MOST_BYTES / 1e6:.0f}; train a narrower one"
        )
    return size


def main() -> None:
    """Read the command line, write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--segmenter", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    print(f"{pack(args.run, args.segmenter, args.out) / 1e6:.1f} MB written to {args.out}")


if __name__ == "__main__":
    main()

"""The `segmenter train` command, which trains a semantic segmentation network."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from lab2pix.cli.console import read_size, show_progress
from lab2pix.cli.options import Device, Seed

app = typer.Typer(no_args_is_help=True, help="Train segmentation networks for PPA, PCA and C-IoU.")


@app.command("train")
def _train(
    *,
    out: Annotated[Path, typer.Option(help="Output folder.")],
    format: Annotated[str, typer.Option(help="Dataset format; see `lab2pix data formats`.")] = "folder",
    root: Annotated[str | None, typer.Option(help="Folder of the dataset; not used by format scenes.")] = None,
    label_space: Annotated[
        str | None, typer.Option(help="Label space, by name or as a YAML file; default: that of the format.")
    ] = None,
    size: Annotated[str, typer.Option(metavar="HxW", help="Image height and width.")] = "256x256",
    train_split: Annotated[str, typer.Option(help="Training split.")] = "train",
    val_split: Annotated[str, typer.Option(help="Validation split.")] = "val",
    architecture: Annotated[str, typer.Option(help="unet, fpn, deeplabv3plus, upernet, ..., or fpn-head.")] = "unet",
    encoder: Annotated[
        str, typer.Option(help="Encoder of segmentation-models-pytorch; for fpn-head efficientnet-lite0.")
    ] = "resnet18",
    encoder_weights: Annotated[
        str | None, typer.Option(help="Pretrained weights, such as imagenet; default: none.")
    ] = None,
    steps: Annotated[int, typer.Option(min=20, help="Optimizer steps.")] = 2000,
    batch_size: Annotated[int, typer.Option(min=2, help="Batch size.")] = 16,
    learning_rate: Annotated[float, typer.Option(min=1e-8, help="Maximum of the one-cycle schedule.")] = 2e-3,
    workers: Annotated[int, typer.Option(min=0, help="Data loader processes.")] = 0,
    scenes_seed: Annotated[
        int, typer.Option(min=0, help="Seed of format scenes; use another seed than in your runs.")
    ] = 7919,
    color_jitter: Annotated[
        float, typer.Option(min=0, max=1, help="Largest change of brightness, contrast and saturation; 0: none.")
    ] = 0.0,
    weight: Annotated[
        list[str] | None,
        typer.Option(metavar="FOLDER=W", help="Weight of a subfolder's pairs, such as synthetic=0.5; repeatable."),
    ] = None,
    seed: Seed = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing segmenter.")] = False,
    device: Device = None,
) -> None:
    """Train a segmentation network on real pairs, and score it on held-out pairs."""
    from lab2pix.cli.console import resolve_label_space
    from lab2pix.config.schema import DataConfig, ScenesConfig
    from lab2pix.training.segmenter import SegmenterSettings, train_segmenter

    resolve_label_space(label_space, format)
    data = DataConfig(
        format=format,
        root=root,
        label_space=label_space or format.removesuffix("-base"),
        train_split=train_split,
        val_split=val_split,
        size=read_size(size),
        workers=workers,
        scenes=ScenesConfig(seed=scenes_seed, val_count=128),
    )
    rates = (steps, batch_size, learning_rate, seed, color_jitter, tuple(_read_weight(text) for text in weight or ()))
    settings = SegmenterSettings(architecture, encoder, encoder_weights, *rates)
    with show_progress("steps") as on_progress:
        result = train_segmenter(data, out, settings, device=device, overwrite=overwrite, on_progress=on_progress)
    print(result)


def _read_weight(text: str) -> tuple[str, float]:
    """Read `FOLDER=WEIGHT`."""
    from lab2pix.errors import ConfigError

    folder, _, number = text.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not folder or not 0 <= value < math.inf:
        raise ConfigError(f"--weight is '{text}'; give a subfolder and a number from 0, such as synthetic=0.5")
    return folder.strip("/"), value

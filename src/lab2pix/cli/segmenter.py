"""The `segmenter train` command, which trains a semantic segmentation network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lab2pix.cli.console import read_size, show_progress
from lab2pix.cli.options import Device, Seed

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Train or check networks that read label maps in pictures.")


@app.command("train")
def _train(
    *,
    out: Annotated[Path, typer.Option(help="Folder for the segmenter.")],
    format: Annotated[str, typer.Option(help="How the files lie; `lab2pix data formats` lists them.")] = "folder",
    root: Annotated[str | None, typer.Option(help="The data set's folder; scenes need none.")] = None,
    label_space: Annotated[
        str | None, typer.Option(help="A shipped name or a YAML file; else the format's own.")
    ] = None,
    size: Annotated[str, typer.Option(metavar="HxW", help="Height and width to read pictures at.")] = "256x256",
    train_split: Annotated[str, typer.Option(help="Split to learn from.")] = "train",
    val_split: Annotated[str, typer.Option(help="Split to score on.")] = "val",
    architecture: Annotated[str, typer.Option(help="unet, fpn, deeplabv3plus, upernet, ...")] = "unet",
    encoder: Annotated[str, typer.Option(help="An encoder of segmentation-models-pytorch.")] = "resnet18",
    encoder_weights: Annotated[
        str | None, typer.Option(help="Pretrained weights to fetch, such as imagenet; else none.")
    ] = None,
    steps: Annotated[int, typer.Option(min=20, help="Optimiser steps.")] = 2000,
    batch_size: Annotated[int, typer.Option(min=2, help="Pictures per step.")] = 16,
    learning_rate: Annotated[float, typer.Option(min=1e-8, help="The highest of the one cycle.")] = 2e-3,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read files beside the training.")] = 0,
    scenes_seed: Annotated[
        int, typer.Option(min=0, help="World of format scenes; take another than your runs.")
    ] = 7919,
    seed: Seed = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a segmenter that is there.")] = False,
    device: Device = None,
) -> None:
    """Train a segmenter on real pairs of any format, and score it on those held out."""
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
    settings = SegmenterSettings(architecture, encoder, encoder_weights, steps, batch_size, learning_rate, seed)
    with show_progress("steps") as on_progress:
        result = train_segmenter(data, out, settings, device=device, overwrite=overwrite, on_progress=on_progress)
    print(result)

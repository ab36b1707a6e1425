"""Commands for datasets and label spaces: data, labels."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from lab2pix.cli.console import print_table, read_size, resolve_label_space, show_progress
from lab2pix.cli.options import FormatOption, Labels, Root, Seed, Split

data_app = typer.Typer(no_args_is_help=True, help="Prepare, check and preview datasets, or create a procedural one.")
labels_app = typer.Typer(help="List the shipped label spaces, or show one.")


@data_app.command("check")
def _data_check(
    root: Annotated[str | None, typer.Argument(help="The dataset's folder; of shards also a URL.")] = None,
    *,
    format: FormatOption = "folder",
    labels: Labels = None,
    split: Split = None,
    labels_root: Annotated[Path | None, typer.Option(help="Instead of ROOT: folder of label maps alone.")] = None,
    images_root: Annotated[Path | None, typer.Option(help="Instead of ROOT: folder of photos alone.")] = None,
    sources: Annotated[
        bool, typer.Option("--sources", help="The inputs are images (data.input=images), not label maps.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Read a whole dataset; say how its files are read, what is passed over, and what is wrong (exit status 1)."""
    from lab2pix.data.check import check_dataset
    from lab2pix.data.formats import has_sources
    from lab2pix.errors import ConfigError

    if (root is None) == (labels_root is None and images_root is None):
        raise ConfigError("name the dataset's folder, or else --labels-root, --images-root or both")
    sources = sources or (format == "folder" and root is not None and has_sources(Path(root)))
    photos_alone = root is None and labels_root is None and labels is None
    space = None if photos_alone or sources else resolve_label_space(labels, format)
    report = check_dataset(root, format, space, split, labels_root=labels_root, images_root=images_root)
    print(json.dumps(report.to_dict(), indent=2) if as_json else report)
    raise typer.Exit(0 if report.ok else 1)


@data_app.command("preview")
def _data_preview(
    root: Annotated[str, typer.Argument(help="Folder of the dataset; of shards also a URL.")],
    *,
    out: Annotated[Path, typer.Option(help="Output PNG file.")] = Path("preview.png"),
    format: FormatOption = "folder",
    labels: Labels = None,
    split: Split = None,
    count: Annotated[int, typer.Option(min=1, help="Number of pairs.")] = 8,
) -> None:
    """Write a contact sheet: photos, colored label maps, overlays."""
    from lab2pix.data.contact_sheet import contact_sheet
    from lab2pix.data.formats import has_sources
    from lab2pix.errors import ConfigError

    if format == "folder" and has_sources(Path(root)):
        raise ConfigError(
            f"{root} has images in sources instead of label maps, whose classes a preview shows; open them"
        )
    print(contact_sheet(root, format, resolve_label_space(labels, format), out, split=split, count=count))


@data_app.command("prepare")
def _data_prepare(
    dataset: Annotated[
        Literal["ade20k", "camvid", "cityscapes", "coco-stuff", "edges2handbags", "edges2shoes", "facades"],
        typer.Argument(help="Published dataset."),
    ],
    source: Annotated[Path, typer.Argument(help="What was downloaded: an archive, or a folder of archives or files.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; a second run continues the first.")],
    *,
    split: Split = None,
) -> None:
    """Turn the download of a published dataset into what presets read, and check the result (exit status 1)."""
    from lab2pix.data.check import check_dataset
    from lab2pix.data.prepare import PUBLISHED_SETS, prepare_set

    published = PUBLISHED_SETS[dataset]
    with show_progress(f"Preparing {dataset}") as progress:
        written, kept = prepare_set(published, source, out, split, progress)
    print(f"{written} files written to {out}, {kept} were there already")
    report = check_dataset(out, published.format, resolve_label_space(published.label_space, published.format), split)
    print(report)
    if report.ok:
        print(f"Train on it: lab2pix train {published.train} {shlex.quote(f'data.root={out}')} --out RUN")
    raise typer.Exit(0 if report.ok else 1)


@data_app.command("scenes")
def _data_scenes(
    out: Annotated[Path, typer.Argument(help="Folder for images/ and labels/.")],
    count: Annotated[int, typer.Option(min=1, help="Number of scenes.")] = 100,
    size: Annotated[str, typer.Option(metavar="HxW", help="Height and width in pixels.")] = "256x256",
    seed: Seed = 0,
    *,
    light: Annotated[
        Literal["sun", "any"],
        typer.Option(
            help="Light by the height of the sun, or any light (storm, moonlight, dusk) with the same label map."
        ),
    ] = "sun",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing scenes.")] = False,
) -> None:
    """Create procedural landscapes with label maps, in format `folder`."""
    from lab2pix.data.scenes.dataset import write_scenes

    write_scenes(out, count, read_size(size), seed, light=light, overwrite=overwrite)
    root = shlex.quote(f"data.root={out}")
    splits = "data.train_split=null data.val_split=null"
    print(f"{count} scenes in {out}; train on them with data.format=folder {root} data.label_space=scenes {splits}")


@data_app.command("shards")
def _data_shards(
    root: Root,
    out: Annotated[Path, typer.Argument(help="Folder of the shards.")],
    *,
    split: Annotated[str, typer.Option(help="The split to write.")] = "train",
    per_shard: Annotated[int, typer.Option(min=1, help="Pairs per tar file.")] = 1000,
) -> None:
    """Write a split of a dataset of format `folder` as tar shards with their indexes."""
    from lab2pix.data.shards import write_shards
    from lab2pix.errors import OutputError

    if any(out.glob(f"{split}-*.tar")):
        raise OutputError(f"{out} has shards of split '{split}' already; choose another folder, or remove them")
    for shard in write_shards(root, split, out, per_shard=per_shard):
        print(shard)


@data_app.command("index")
def _data_index(
    root: Annotated[str, typer.Argument(help="Folder of the shards, by path or URL.")],
    *,
    image: Annotated[str | None, typer.Option(metavar="EXTENSION", help="Extension of photos, such as jpg.")] = None,
    label: Annotated[
        str | None, typer.Option(metavar="EXTENSION", help="Extension of label maps, such as seg.png.")
    ] = None,
    instance: Annotated[str | None, typer.Option(metavar="EXTENSION", help="Extension of instance maps.")] = None,
) -> None:
    """Write the index of each tar shard that has no valid one, or of each if an extension is given."""
    from lab2pix.data.shard_index import index_shards

    given = {"image": image, "label": label, "instance": instance}
    extensions = {part: extension.lstrip(".") for part, extension in given.items() if extension}
    for shard, count in index_shards(root, extensions, again=bool(extensions)):
        print(f"{shard}: {'its index is valid' if count is None else f'{count} samples'}")


@data_app.command("formats")
def _data_formats() -> None:
    """List the dataset formats."""
    from lab2pix.utils.registry import DATASET_FORMATS

    rows = [(name, known.description) for name, known in DATASET_FORMATS.items()]
    print_table(("format", "files"), rows)


@labels_app.callback()
def _labels(context: typer.Context) -> None:
    from lab2pix.labels.space import LabelSpace
    from lab2pix.utils.registry import label_space_names

    if context.invoked_subcommand is None:
        spaces = [LabelSpace.load(name) for name in label_space_names()]
        rows = [(s.name, str(s.num_classes), "" if s.unknown_value is None else str(s.unknown_value)) for s in spaces]
        print_table(("label space", "classes", "unknown in files"), rows)


@labels_app.command("show")
def _labels_show(
    name: Annotated[str, typer.Argument(metavar="NAME_OR_FILE", help="Label space, by name or as a YAML file.")],
) -> None:
    """Print ids, names, colors and foreground of the classes."""
    from lab2pix.labels.space import LabelSpace

    classes = LabelSpace.load(name).classes
    rows = [(str(i), c.name, "#" + bytes(c.color).hex(), "yes" if c.foreground else "") for i, c in enumerate(classes)]
    print_table(("id", "name", "color", "foreground"), rows)

"""The command line: one short function per verb, no logic; whatever is heavy is imported by the verb that needs it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

import lab2pix
from lab2pix.errors import Lab2PixError, OutputError
from lab2pix.terminal import explain_os_error, label_space_for, print_table, read_seed_pair, read_size, show_progress

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Turn label maps into photo-realistic pictures with Lab2Pix.",
)
presets_app = typer.Typer(help="List the shipped recipes, or show one.")
data_app = typer.Typer(no_args_is_help=True, help="Look at data sets, or draw one.")
labels_app = typer.Typer(help="List the shipped label spaces, or show one.")
app.add_typer(presets_app, name="presets", invoke_without_command=True)
app.add_typer(data_app, name="data")
app.add_typer(labels_app, name="labels", invoke_without_command=True)

Source = Annotated[str, typer.Argument(metavar="PRESET_OR_FILE", help="A name from `lab2pix presets`, or a YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings to change, such as train.batch_size=4.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or mps; else the best there is.", show_default=False)]
Seed = Annotated[int, typer.Option(min=0, help="Decides every random number.")]
Root = Annotated[Path, typer.Argument(help="The data set's folder.")]
Layout = Annotated[str, typer.Option(help="How the files lie; `lab2pix data layouts` lists them.")]
Labels = Annotated[str | None, typer.Option(help="Label space: a shipped name or a YAML file; else the layout's own.")]
Split = Annotated[str | None, typer.Option(help="One split only, such as train.", show_default=False)]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 found or met trouble, 2 asked for something that cannot be.

    Args:
        arguments: words after the program's name; those of the process where left out.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words  # taken out here, so that it may stand anywhere
    try:
        app(args=[word for word in words if word != "--debug"], prog_name="lab2pix")
    except Lab2PixError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    except OSError as error:
        if debug or error.errno is None:
            raise
        print(f"error: {explain_os_error(error)}", file=sys.stderr)
        raise SystemExit(OutputError.exit_code) from error
    raise SystemExit(0)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"lab2pix {lab2pix.__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where in the code an error came from.")] = False,
) -> None:
    """Hold the options of every verb; `main` takes --debug out of the words before."""


@presets_app.callback()
def _presets(context: typer.Context) -> None:
    from lab2pix.configuration import preset_descriptions

    if context.invoked_subcommand is None:
        print_table(("preset", "what it is"), preset_descriptions().items())


@presets_app.command("show")
def _presets_show(source: Source, overrides: Overrides = None) -> None:
    """Print every setting of a recipe as YAML, ready to be saved and changed."""
    from lab2pix.configuration import load_config, to_yaml

    print(to_yaml(load_config(source, overrides or ())), end="")


@app.command("train")
def _train(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="PRESET_OR_FILE", help="A preset or a YAML file; not needed to resume.", show_default=False
        ),
    ] = None,
    overrides: Overrides = None,
    *,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; else runs/NAME.", show_default=False)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the latest checkpoint in --out.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be trained; write nothing.")] = False,
    device: Device = None,
) -> None:
    """Train networks; Ctrl-C writes a checkpoint and ends cleanly."""
    from lab2pix.configuration import load_config, require_data_root

    if source is not None and "=" in source and not Path(source).exists():  # settings alone, of the run to resume
        overrides = [source, *(overrides or ())]
        source = None
    if source is None and (out is None or not resume or dry_run):
        raise typer.BadParameter("name a preset or a YAML file; only --resume with --out goes without")
    config = None if source is None else load_config(source, overrides or ())
    if source is None and out and overrides:
        from lab2pix.training import read_run_config

        config = load_config(read_run_config(out), overrides)
    if config and dry_run:
        from lab2pix.plan import describe

        print(describe(config))
    if config:
        require_data_root(config)
    if not dry_run:
        from lab2pix.training.loop import train

        run = out or Path("runs") / (config.name if config else "")
        raise typer.Exit(train(config, run, resume=resume, device=device).exit_code)


@app.command("generate")
def _generate(
    weights: Annotated[
        str, typer.Argument(metavar="RUN_OR_WEIGHTS", help="Run, checkpoint, weights file or hub name.")
    ],
    labels: Annotated[Path, typer.Argument(help="A label map, or a folder of them.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")],
    seed: Seed = 0,
    samples: Annotated[int, typer.Option(min=1, help="Different pictures per label map.")] = 1,
    interpolate: Annotated[
        str | None, typer.Option(metavar="A,B", help="Go from seed A to seed B instead.", show_default=False)
    ] = None,
    steps: Annotated[int, typer.Option(min=2, help="Pictures on the way from A to B.")] = 8,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Make pictures anew that are there already.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at once; changes speed and memory only.")] = 8,
    layout: Layout = "folder",
    split: Split = None,
    keep_size: Annotated[
        bool, typer.Option("--keep-size", help="Draw at each label map's own size, not the one trained at.")
    ] = False,
    scales: Annotated[
        bool, typer.Option("--scales", help="Write NAME_x2.png and NAME_x1.png, the smaller sizes of V1, as well.")
    ] = False,
    label_space: Annotated[
        str | None,
        typer.Option(help="Refuse weights made for another label space than this one.", show_default=False),
    ] = None,
    device: Device = None,
) -> None:
    """Make pictures from label maps."""
    from lab2pix.devices import wait_for_processes
    from lab2pix.synthesis import Synthesizer, generate_folder

    synthesizer = Synthesizer.load(weights, device=device, expect_label_space=label_space)
    with show_progress("label maps") as on_progress:
        report = generate_folder(
            synthesizer,
            labels,
            out,
            seed=seed,
            samples=samples,
            interpolate=read_seed_pair(interpolate),
            steps=steps,
            overwrite=overwrite,
            batch_size=batch_size,
            layout=layout,
            split=split,
            keep_size=keep_size,
            scales=scales,
            on_progress=on_progress,
        )
    print(report)
    wait_for_processes()
    raise typer.Exit(0 if report.ok else 1)


@app.command("convert")
def _convert(
    checkpoint: Annotated[Path, typer.Argument(help="A generator's file, such as latest_net_G.pth.")],
    *,
    form: Annotated[
        str, typer.Option("--from", metavar="FORM", help="lab2pix-v1-released, lab2pix-v2-released or spade.")
    ],
    out: Annotated[Path, typer.Option(help="Empty or new folder for the converted weights.")],
    label_space: Annotated[
        str | None, typer.Option(help="What it was trained with; else the shipped one that fits.", show_default=False)
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Height and width it draws at; else the usual.", show_default=False),
    ] = None,
    doublings: Annotated[
        int | None, typer.Option(help="5 or 6, which SPADE's weights do not tell.", show_default=False)
    ] = None,
    instance_edges: Annotated[
        bool | None,
        typer.Option(
            "--instance-edges/--no-instance-edges",
            help="Whether the last channel marks borders between instances.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Turn an authors' checkpoint into weights that generate takes."""
    from lab2pix.synthesis import convert

    sides = None if size is None else read_size(size)
    converted = convert(
        checkpoint,
        form,
        out,
        label_space=label_space,
        size=sides,
        doublings=doublings,
        instance_edges=instance_edges,
    )
    print(f"{converted}\nwritten to {out}")


@app.command("demo")
def _demo(
    overrides: Overrides = None,
    *,
    method: Annotated[
        str, typer.Option(help="v2, from pairs; v1, without pairs; v1-sketch, from line drawings, without pairs.")
    ] = "v2",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for pictures, page and run; else demo, demo-v1, ...", show_default=False),
    ] = None,
    minutes: Annotated[float, typer.Option(min=0.1, help="Time for everything.")] = 8,
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Height and width in pixels; else as the preset has it.")
    ] = None,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Train on drawn landscapes for some minutes and show what came of it; again, to go on after Ctrl-C."""
    from lab2pix.demo import run_demo

    sides = None if size is None else read_size(size)
    result = run_demo(
        out or Path("demo" if method == "v2" else f"demo-{method}"),
        method=method,
        minutes=minutes,
        seed=seed,
        size=sides,
        device=device,
        overrides=tuple(overrides or ()),
    )
    raise typer.Exit(result.exit_code)


@app.command("parity")
def _parity(
    paths: Annotated[list[Path], typer.Argument(metavar="FILE_OR_FOLDER...", help="Golden vectors to check against.")],
) -> None:
    """Compare this package's networks and losses with recorded ones; exit 1 on any difference."""
    from lab2pix.interop.parity import run_parity

    raise typer.Exit(0 if run_parity(paths) else 1)


@data_app.command("check")
def _data_check(
    root: Root,
    layout: Layout = "folder",
    labels: Labels = None,
    split: Split = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Read a whole data set and name everything that is wrong with it; exit 1 if anything is."""
    from lab2pix.data.doctor import check

    report = check(root, layout, label_space_for(labels, layout), split=split)
    print(json.dumps(report.to_dict(), indent=2) if as_json else report)
    raise typer.Exit(0 if report.ok else 1)


@data_app.command("preview")
def _data_preview(
    root: Root,
    *,
    out: Annotated[Path, typer.Option(help="PNG to write.")] = Path("preview.png"),
    layout: Layout = "folder",
    labels: Labels = None,
    split: Split = None,
    count: Annotated[int, typer.Option(min=1, help="How many pairs.")] = 8,
) -> None:
    """Write a contact sheet: photo, coloured labels, overlay."""
    from lab2pix.data.doctor import contact_sheet

    print(contact_sheet(root, layout, label_space_for(labels, layout), out, split=split, count=count))


@data_app.command("scenes")
def _data_scenes(
    out: Annotated[Path, typer.Argument(help="Folder for images/ and labels/.")],
    count: Annotated[int, typer.Option(min=1, help="How many scenes.")] = 100,
    size: Annotated[str, typer.Option(metavar="HxW", help="Height and width in pixels.")] = "256x256",
    seed: Seed = 0,
    *,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Draw anew what was drawn there before.")] = False,
) -> None:
    """Draw landscapes with their label maps, in the layout `folder`."""
    from lab2pix.data.scenes import write_scenes

    write_scenes(out, count, read_size(size), seed, overwrite=overwrite)
    where = f"data.layout=folder data.root={out} data.label_space=scenes data.train_split=null data.val_split=null"
    print(f"{count} scenes in {out}; train on them with {where}")


@data_app.command("layouts")
def _data_layouts() -> None:
    """List how files may lie on disk."""
    from lab2pix.data.layouts import layout_descriptions

    print_table(("layout", "where the files lie"), layout_descriptions().items())


@labels_app.callback()
def _labels(context: typer.Context) -> None:
    from lab2pix.labels import LabelSpace, label_space_names

    if context.invoked_subcommand is None:
        spaces = [LabelSpace.load(name) for name in label_space_names()]
        rows = [(s.name, str(s.num_classes), "" if s.unknown_value is None else str(s.unknown_value)) for s in spaces]
        print_table(("label space", "classes", "unknown in files"), rows)


@labels_app.command("show")
def _labels_show(
    name: Annotated[str, typer.Argument(metavar="NAME_OR_FILE", help="A shipped label space or a YAML file.")],
) -> None:
    """Print ids, names, colours and which classes are foreground."""
    from lab2pix.labels import LabelSpace

    classes = LabelSpace.load(name).classes
    rows = [(str(i), c.name, "#" + bytes(c.color).hex(), "yes" if c.foreground else "") for i, c in enumerate(classes)]
    print_table(("id", "name", "colour", "foreground"), rows)


if __name__ == "__main__":
    main()

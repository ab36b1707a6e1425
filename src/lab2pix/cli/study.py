"""Commands of the user study (Table 6): make, serve, report."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from lab2pix.cli.console import show_progress
from lab2pix.cli.options import AllowHost, Browser, Host, Port, Seed
from lab2pix.utils.signals import exit_on_signal
from lab2pix.web import require_web_extra

app = typer.Typer(no_args_is_help=True, help="User study: participants rank images of several methods (Table 6).")

Folder = Annotated[Path, typer.Argument(metavar="STUDY", help="Folder of `lab2pix study make`.")]


@app.command("make")
def _make(
    methods: Annotated[
        list[str], typer.Argument(metavar="METHOD=DIR...", help="Name of a method and folder of its images.")
    ],
    *,
    labels: Annotated[Path, typer.Option(help="Folder of the label maps.")],
    out: Annotated[Path, typer.Option(help="New or empty folder for the study.")],
    label_space: Annotated[
        str | None,
        typer.Option(
            help="Label space, by name or as a YAML file, for colors and a legend; default: label maps as they are."
        ),
    ] = None,
    truth: Annotated[Path | None, typer.Option(help="Folder of the real images.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Number of label maps that each participant ranks.")] = 100,
    pool: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of samples to choose from at random for each participant; default: the same for all."
        ),
    ] = None,
    seed: Seed = 0,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Skip names that are not in all folders.")
    ] = False,
) -> None:
    """Create a study: choose samples and copy their images under anonymous names."""
    from lab2pix.labels.space import LabelSpace
    from lab2pix.web.study.build import build_study, parse_methods

    folders, space = parse_methods(methods), None if label_space is None else LabelSpace.load(label_space)
    with show_progress("samples") as on_progress:
        built = build_study(
            labels,
            space,
            folders,
            out,
            truth=truth,
            samples=count,
            pool=pool,
            seed=seed,
            allow_missing=allow_missing,
            on_progress=on_progress,
        )
    print(built)


@app.command("serve")
def _serve(
    study: Folder, *, host: Host = "127.0.0.1", port: Port = 8000, allow_host: AllowHost = None, browser: Browser = True
) -> None:
    """Serve the ranking page, until Ctrl-C."""
    with exit_on_signal():
        require_web_extra()
        from lab2pix.web.study.app import serve_study

        serve_study(
            study,
            host=host,
            port=port,
            allow_hosts=allow_host or (),
            open_browser=browser,
            echo=partial(print, flush=True),
        )


@app.command("report")
def _report(
    study: Folder,
    *,
    out: Annotated[Path | None, typer.Option(help="Folder for report.json, report.md and report.html.")] = None,
    seed: Seed = 0,
) -> None:
    """Print mean scores, Top1 and Top2 rates of each method with confidence intervals, and the participants."""
    from lab2pix.web.study.page import save_report
    from lab2pix.web.study.report import report_study

    report = report_study(study, seed=seed)
    print(report)
    if out is not None:
        save_report(report, out)
        print(f"written to {out}")

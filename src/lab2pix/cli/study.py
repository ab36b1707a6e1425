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

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Let people rank pictures of several methods (Table 6).")

Folder = Annotated[Path, typer.Argument(metavar="STUDY", help="A folder that `study make` made.")]


@app.command("make")
def _make(
    methods: Annotated[
        list[str], typer.Argument(metavar="METHOD=DIR...", help="A method's name and the folder of its pictures.")
    ],
    *,
    labels: Annotated[Path, typer.Option(help="Folder of the label maps.")],
    out: Annotated[Path, typer.Option(help="New or empty folder for the study.")],
    label_space: Annotated[
        str | None,
        typer.Option(help="Their classes, with a legend: a shipped name or a YAML file; else shown as they are."),
    ] = None,
    truth: Annotated[Path | None, typer.Option(help="Folder of the true pictures.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="How many each participant ranks.")] = 100,
    pool: Annotated[
        int | None, typer.Option(min=1, help="Draw each participant's samples from so many; else all see the same.")
    ] = None,
    seed: Seed = 0,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out names that not all folders have.")
    ] = False,
) -> None:
    """Choose samples and copy their pictures under names that give no method away."""
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
            samples=samples,
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
    """Serve the page on which people rank, until Ctrl-C."""
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
    """Print mean scores, Top1 and Top2 rates of each method, how sure they are, and who took part."""
    from lab2pix.web.study.page import save_report
    from lab2pix.web.study.report import report_study

    report = report_study(study, seed=seed)
    print(report)
    if out is not None:
        save_report(report, out)
        print(f"written to {out}")

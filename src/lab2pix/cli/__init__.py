"""Command-line interface. Each command is one short function, which imports heavy dependencies itself."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

import lab2pix
from lab2pix.cli import augment, data, evaluate, fit, generate, label, paint, presets, segmenter, study, train
from lab2pix.cli.console import explain_os_error
from lab2pix.errors import Lab2PixError, OutputError
from lab2pix.utils.logs import configure_logging

__all__ = ["app", "main"]

_VERBOSE = ("--verbose", "-v")
_ANYWHERE = ("--debug", "--quiet", *_VERBOSE, "-vv")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Turn label maps and sketches into images, with Lab2Pix and the systems it is compared with.",
)
app.add_typer(train.app)
app.add_typer(fit.app)
app.add_typer(generate.app)
app.add_typer(augment.app)
app.add_typer(label.app)
app.add_typer(paint.app)
app.add_typer(evaluate.app)
app.add_typer(segmenter.app, name="segmenter")
app.add_typer(study.app, name="study")
app.add_typer(presets.presets_app, name="presets", invoke_without_command=True)
app.add_typer(data.data_app, name="data")
app.add_typer(data.labels_app, name="labels", invoke_without_command=True)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with 0 (success), 1 (failure or problems found) or 2 (invalid request).

    Args:
        arguments: command-line arguments; None: those of the process.
    """
    _print_whatever_the_encoding()
    words = [_expand_home(word) for word in (sys.argv[1:] if arguments is None else arguments)]
    debug = "--debug" in words  # these options are accepted at any position
    configure_logging(_log_level(words))
    try:
        app(args=[word for word in words if word not in _ANYWHERE], prog_name="lab2pix")
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


def _log_level(words: Sequence[str]) -> int:
    """Return the level of messages that the options ask for.

    Raises:
        SystemExit: options that contradict each other.
    """
    quiet, verbose = "--quiet" in words, sum(word in _VERBOSE for word in words) + 2 * words.count("-vv")
    if quiet and verbose:
        print("error: --quiet and -v contradict each other; omit one of them", file=sys.stderr)
        raise SystemExit(2)
    return logging.ERROR if quiet else {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)


def _print_whatever_the_encoding() -> None:
    """Let characters that the terminal or file does not know be replaced instead of ending the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


def _expand_home(word: str) -> str:
    """Replace `~` at the start of an argument or of an option's value, where no shell does so."""
    option, equals, value = word.partition("=")
    if equals and option.startswith("--"):
        return f"{option}={os.path.expanduser(value)}"  # noqa: PTH111
    return os.path.expanduser(word)  # noqa: PTH111


def _show_version(asked: bool) -> None:
    if asked:
        print(f"lab2pix {lab2pix.__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print the traceback of an error.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show results and errors only.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say what happens; -vv: in detail.")] = False,
) -> None:
    """Declare the global options; `main` handles all but --version before parsing."""

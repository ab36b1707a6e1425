"""HTML page of a run (`index.html`): progress, scores, samples, losses, commands and settings."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lab2pix.config.schema import RunConfig
from lab2pix.recipes import load_config, preset_names
from lab2pix.reporting.chart import chart
from lab2pix.reporting.html import write_html
from lab2pix.reporting.scores import higher_is_better, score_title
from lab2pix.training.log import read_scores
from lab2pix.training.run_folder import flatten
from lab2pix.training.state import TrainingState
from lab2pix.utils.sequences import evenly_spaced

PAGE = "index.html"
_EARLIER = 16  # sample sheets in the strip


def write_page(run: Path, state: TrainingState, *, total: int, notes: Sequence[str] = (), waiting: float = 0.0) -> None:
    """Write `index.html` from the log and images of a run.

    `waiting` is the share of the session time spent waiting for data.
    """
    config = state.method.config
    sheets = list(_sheets(run / "samples"))
    earlier = sheets[:-1]
    preset = config.name in preset_names()
    write_html(
        run / PAGE,
        "run.html",
        title=f"{config.name}: step {state.step:,}",
        config=config,
        step=state.step,
        total=total,
        share=100 * state.step / max(1, total),
        trained=timedelta(seconds=round(state.seconds)),
        waiting=waiting,
        written=datetime.now(UTC),
        notes=notes,
        scores=list(_scores(run)),
        kept=state.best,
        latest=sheets[-1] if sheets else None,
        earlier=[earlier[index] for index in evenly_spaced(len(earlier), _EARLIER)],
        losses=(run / "losses.png").exists(),
        commands=_commands(run, config, done=state.step >= total),
        base=f"preset {config.name}" if preset else "the defaults",
        settings=list(_changed_settings(config, load_config(config.name) if preset else type(config)())),
    )


def _scores(run: Path) -> Iterator[dict[str, Any]]:
    """Yield each score with its latest and best value and its curve; values that are not finite are left out."""
    for name, logged in read_scores(run / "log.jsonl").items():
        values = {step: value for step, value in logged.items() if math.isfinite(value)}
        if not values:
            continue
        last, better = max(values), "higher" if higher_is_better(name) else "lower"
        best = (max if better == "higher" else min)(values.values())
        best_step = min(step for step, value in values.items() if value == best)
        curve = chart(values, best_step, f"{score_title(name)} by step, {better} is better")
        found = {"name": name, "better": better, "best": best, "best_step": best_step, "chart": curve}
        yield {**found, "last": last, "latest": values[last]}


def _sheets(folder: Path) -> Iterator[dict[str, Any]]:
    for sheet in sorted(folder.glob("step-*.png")):
        yield {"file": f"samples/{sheet.name}", "step": int(sheet.stem.removeprefix("step-"))}


def _commands(run: Path, config: RunConfig, *, done: bool) -> list[tuple[str, str]]:
    """Return suggested next commands with their purposes."""
    evaluation = config.evaluation
    evaluate = ["lab2pix", "evaluate", str(run), "--out", str(run / "report.json"), "--count", str(evaluation.count)]
    for name in evaluation.features:
        evaluate += ["--features", name]
    if evaluation.inception_weights is not None:
        evaluate += ["--inception-weights", evaluation.inception_weights]
    if evaluation.segmenter is not None:
        evaluate += ["--segmenter", evaluation.segmenter]
    if evaluation.samples > 1:
        evaluate += ["--samples", str(evaluation.samples)]
    commands = [
        ("Resume", ["lab2pix", "train", "--resume", "--out", str(run)]),
        ("Generate images", ["lab2pix", "generate", str(run), "LABEL_MAPS", "--out", "IMAGES"]),
        ("Evaluate", evaluate),
    ]
    return [(purpose, shlex.join(words)) for purpose, words in commands[1 if done else 0 :]]


def _changed_settings(config: RunConfig, base: RunConfig) -> Iterator[tuple[str, str, str]]:
    """Yield key, value and base value of the settings that differ from `base`."""
    before, now = (dict(flatten(part.model_dump(mode="json"))) for part in (base, config))
    for key, value in now.items():
        if before.get(key) != value and key != "name":
            yield key, _plain(value), _plain(before.get(key))


def _plain(value: object) -> str:
    return {True: "true", False: "false", None: "null"}[value] if isinstance(value, bool | None) else str(value)

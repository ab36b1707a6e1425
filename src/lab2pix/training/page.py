"""The run's page: how far it is, its scores, its samples, and what to do with it, in one file beside its pictures."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from html import escape
from pathlib import Path
from typing import Any

from lab2pix.config.schema import Config
from lab2pix.recipes import load_config, preset_names
from lab2pix.reporting.chart import chart
from lab2pix.reporting.html import number, score_title, write_html
from lab2pix.training.evaluation import is_maximized
from lab2pix.training.log import read_scores
from lab2pix.training.run_folder import flatten
from lab2pix.training.state import Best, TrainingState

__all__ = ["PAGE", "write_page"]

PAGE = "index.html"
_EARLIER = 16  # sample sheets in the strip
_TITLES = {
    "l1": "Mean difference of pixels in [-1, 1]",
    "perceptual": "Perceptual loss",
    "cycle": "Cycle segmentation loss",
    "disagreement": "Share of pixels that its own segmenter reads otherwise",
}
_PANELS = "margin-top:1rem;grid-template-columns:repeat(auto-fill,minmax(min(19rem,100%),1fr))"
_STRIP = "display:flex;gap:.6rem;align-items:flex-start;overflow-x:auto;padding-bottom:.4rem"


def write_page(run: Path, state: TrainingState, *, total: int, notes: Sequence[str] = (), waiting: float = 0.0) -> None:
    """Write `index.html` anew from the run's log and pictures.

    Args:
        run: the run folder.
        state: what is trained.
        total: steps of the whole run.
        notes: sentences that a reader of the scores should know.
        waiting: which share of this session's time steps waited for data.
    """
    config = state.method.config
    scores = {
        name: kept
        for name, values in read_scores(run / "log.jsonl").items()
        if (kept := {step: value for step, value in values.items() if math.isfinite(value)})
    }
    parts = [
        f"<h1>{escape(config.name)}</h1>",
        _standing(state, total, waiting),
        *(f'<p class="note">{escape(note[:1].upper() + note[1:])}.</p>' for note in notes),
        _scores(scores, state.best),
        _samples(run, held_out=config.data.val_split is not None),
        _losses(run, state.step),
        f"<h2>Commands</h2>{_commands(run, config, done=state.step >= total)}",
        _settings(config),
    ]
    write_html(run / PAGE, f"{config.name}: step {state.step:,}", "\n".join(part for part in parts if part))


def _standing(state: TrainingState, total: int, waiting: float) -> str:
    """Say how far the run is."""
    share = 100 * state.step / max(1, total)
    trained = timedelta(seconds=round(state.seconds))
    idle = f"{waiting:.0%} of the latest session waiting for data"
    word = "complete" if state.step >= total else f"{share:.0f} %"
    return (
        f'<p class="soft">{escape(state.method.config.method)} · step {state.step:,} of {total:,} ({word}) · '
        f"{trained} of training, {idle} · written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC</p>"
        '<p style="max-width:none;background:var(--line);border-radius:2px">'
        f'<span class="bar" style="width:{share:.1f}%"></span></p>'
    )


def _title(name: str) -> str:
    return _TITLES.get(name) or score_title(name)


def _best_step(name: str, values: Mapping[int, float]) -> int:
    """Return the first step with the best value."""
    choose = max if is_maximized(name) else min
    value = choose(values.values())
    return min(step for step, other in values.items() if other == value)


def _scores(scores: Mapping[str, Mapping[int, float]], kept: Best | None) -> str:
    if not scores:
        return ""
    rows, panels = [], []
    for name, values in scores.items():
        best, last = _best_step(name, values), max(values)
        better = "higher" if is_maximized(name) else "lower"
        note = ""
        if kept is not None and kept.score == name:
            note = f'<br><span class="soft" style="font-weight:400">kept: checkpoints/step-{kept.step:08d}</span>'
        rows.append(
            f'<tr><th scope="row" style="white-space:normal">{escape(_title(name))}<br>'
            f'<code class="soft">{escape(name)}</code>{note}</th>'
            f'<td class="number">{number(values[last])}</td><td class="number">{last:,}</td>'
            f'<td class="number best">{number(values[best])}</td><td class="number">{best:,}</td><td>{better}</td></tr>'
        )
        curve = chart(values, best, f"{_title(name)} by step, {better} is better")
        panels.append(
            f"<figure><b>{escape(_title(name))}</b>{curve}<figcaption>{better} is better; best "
            f"{number(values[best])} at step {best:,}, marked</figcaption></figure>"
        )
    head = (
        '<tr><th>score</th><th class="number">latest</th><th class="number">at step</th>'
        '<th class="number">best</th><th class="number">at step</th><th>better is</th></tr>'
    )
    table = f'<div class="scroll"><table><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>'
    return f'<h2>Scores on held-out label maps</h2>{table}<div class="sheet" style="{_PANELS}">{"".join(panels)}</div>'


def _losses(run: Path, step: int) -> str:
    if not (run / "losses.png").exists():
        return ""
    # The step makes browsers fetch it anew.
    image = f'<img class="plot" src="losses.png?step={step}" alt="curves of the losses over the steps">'
    return f"<h2>Losses</h2>{image}"


def _samples(run: Path, *, held_out: bool) -> str:
    """Show the latest sheet, and earlier ones evenly spread over the run."""
    sheets = sorted((run / "samples").glob("step-*.png"))
    if not sheets:
        return ""
    *earlier, latest = sheets
    count = min(len(earlier), _EARLIER)
    chosen = [earlier[index * len(earlier) // count] for index in range(count)]
    what = "Held-out label maps" if held_out else "Label maps that it learns from"
    shown = (
        f"<h2>Samples</h2><p>{what}, always the same, with the same noise: step {_step(latest):,}.</p>"
        f'<a href="samples/{latest.name}"><img src="samples/{latest.name}" alt="sample sheet" style="max-width:100%">'
        "</a>"
    )
    if chosen:
        figures = "".join(
            f'<figure style="flex:0 0 10rem"><a href="samples/{sheet.name}"><img loading="lazy" '
            f'src="samples/{sheet.name}" alt="sample sheet"></a><figcaption>step {_step(sheet):,}</figcaption></figure>'
            for sheet in chosen
        )
        shown += f'<h2>Earlier samples</h2><div style="{_STRIP}">{figures}</div>'
    return shown


def _step(sheet: Path) -> int:
    return int(sheet.stem.removeprefix("step-"))


def _commands(run: Path, config: Config, *, done: bool) -> str:
    """Return what to type next."""
    evaluation = config.evaluation
    judge = ["lab2pix", "evaluate", str(run), "--out", str(run / "report.json"), "--count", str(evaluation.count)]
    for name in evaluation.features:
        judge += ["--features", name]
    if evaluation.inception_weights is not None:
        judge += ["--inception-weights", evaluation.inception_weights]
    if evaluation.segmenter is not None:
        judge += ["--segmenter", evaluation.segmenter]
    if evaluation.samples > 1:
        judge += ["--samples", str(evaluation.samples)]
    wanted: list[tuple[str, Sequence[str]]] = [
        ("Draw pictures of label maps", ["lab2pix", "generate", str(run), "LABEL_MAPS", "--out", "PICTURES"]),
        ("Judge it", judge),
    ]
    if not done:
        wanted.insert(0, ("Go on", ["lab2pix", "train", "--resume", "--out", str(run)]))
    lines = [f"<dt>{escape(what)}</dt><dd><code>{escape(shlex.join(words))}</code></dd>" for what, words in wanted]
    return f"<dl>{''.join(lines)}</dl>"


def _settings(config: Config) -> str:
    """Show the settings that differ from the preset of the run's name, or else from the defaults."""
    preset = config.name in preset_names()
    base = load_config(config.name) if preset else Config()
    before, now = (dict(flatten(part.model_dump(mode="json"))) for part in (base, config))
    rows = [
        f'<tr><th scope="row"><code>{escape(key)}</code></th><td>{_value(value)}</td>'
        f'<td class="soft">{_value(before.get(key))}</td></tr>'
        for key, value in now.items()
        if before.get(key) != value and key != "name"
    ]
    source = f"preset {config.name}" if preset else "the defaults"
    title = (
        '<h2>Settings</h2><p>All of them are in <a href="config.yaml">config.yaml</a>; those that differ from '
        f"{escape(source)}"
    )
    if not rows:
        return f"{title}: none.</p>"
    head = f"<tr><th>setting</th><th>here</th><th>{escape(source)}</th></tr>"
    return f'{title}:</p><div class="scroll"><table><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>'


def _value(value: Any) -> str:
    text = {True: "true", False: "false", None: "null"}.get(value) if isinstance(value, bool | None) else None
    return escape(str(value) if text is None else text)

"""The report as a page: scores, classes, best and worst pictures, and the protocol."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from lab2pix.data.files import read_label
from lab2pix.data.transforms import to_pil
from lab2pix.errors import Lab2PixError, OutputError
from lab2pix.evaluation.report import Report, check_output_path
from lab2pix.labels.space import LabelSpace
from lab2pix.reporting.html import number, picture, score_title, spread, write_html
from lab2pix.utils.files import write_atomically

__all__ = ["save_report", "write_page"]


def save_report(report: Report, path: Path | str, *, overwrite: bool = False) -> Path:
    """Write a report's JSON, and the HTML page beside it (same name, `.html`).

    Args:
        report: what to write.
        path: where to; ends in `.json`.
        overwrite: replace a report that is there.

    Raises:
        OutputError: a report is there already, or the place cannot be written.
    """
    path = check_output_path(path, overwrite=overwrite)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(report.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        write_page(report.to_dict(raw=True), path.with_suffix(".html"), report.space)
    except OSError as error:
        raise OutputError(f"cannot write {path} ({error.strerror or error}); choose another place") from error
    return path


def write_page(report: Mapping[str, Any], file: Path, space: LabelSpace | None = None) -> None:
    """Write the page of a report.

    Args:
        report: what its JSON holds.
        file: the HTML file.
        space: what its label maps hold, to colour them; None leaves them out.
    """
    protocol = report["protocol"]
    judged = protocol.get("generated", {})
    where = judged.get("folder") or judged.get("run") or ""
    parts = [
        f"<h1>{escape(str(report['name']))}</h1>",
        f'<p class="soft">{_counted(judged.get("count", 0), "label map")}, '
        f"{_counted(protocol.get('sample_sets', 1), 'picture')} of each, from {escape(str(where))}; "
        f"judged on {escape(str(protocol.get('created', ''))[:10])}</p>",
        *(f'<p class="note">{escape(note)}.</p>' for note in report.get("notes", [])),
        "<h2>Scores</h2>",
        _scores(report["scores"]),
        _classes(report),
        _sheet(report.get("pictures") or {}, space),
        _left_out(report),
        "<h2>Protocol</h2>",
        f"<dl>{''.join(_facts(protocol))}</dl>",
    ]
    write_html(file, f"{report['name']}: scores", "\n".join(part for part in parts if part))


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _scores(scores: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        f'<tr><th scope="row">{escape(score_title(name))}<br><code class="soft">{escape(name)}</code></th>'
        f'<td class="number">{spread(score["mean"], score["std"])}</td><td>{escape(score["better"])}</td>'
        f"<td>{_counted(score['count'], escape(score['over']).removesuffix('s'))}{_without(score)}</td></tr>"
        for name, score in scores.items()
    ]
    head = '<tr><th>score</th><th class="number">mean ± deviation</th><th>better is</th><th>over</th></tr>'
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>'


def _without(score: Mapping[str, Any]) -> str:
    return f", {score['not_finite']:,} not finite" if score.get("not_finite") else ""


def _classes(report: Mapping[str, Any]) -> str:
    classes = report.get("classes") or []
    if not classes:
        return ""
    rows = [
        f'<tr><th scope="row">{escape(row["name"])}</th><td class="number">{number(row["iou"])}</td>'
        f'<td class="barcell"><span class="bar" style="width:{100 * (row["iou"] or 0):.1f}%"></span></td>'
        f'<td class="number">{number(row["accuracy"])}</td><td class="number">{row["pixels"]:,}</td></tr>'
        for row in classes
    ]
    head = (
        '<tr><th>class</th><th class="number">IoU</th><th></th><th class="number">accuracy</th>'
        '<th class="number">pixels</th></tr>'
    )
    table = f'<div class="scroll"><table><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>'
    out = report.get("left_out") or []
    note = (
        f'<p class="soft">In neither label maps nor readings, so in no mean: {escape(", ".join(out))}.</p>'
        if out
        else ""
    )
    return f"<h2>Classes</h2>{table}{note}"


def _sheet(pictures: Mapping[str, Any], space: LabelSpace | None) -> str:
    if not pictures:
        return ""
    groups = []
    for title, key in (("Best", "best"), ("Median", "median"), ("Worst", "worst")):
        figures = [_figure(item, pictures["by"], space) for item in pictures.get(key, [])]
        groups.append(
            f'<h2>{title} pictures by {escape(pictures["by"])}</h2><div class="sheet">{"".join(figures)}</div>'
        )
    return "".join(groups)


def _figure(item: Mapping[str, Any], by: str, space: LabelSpace | None) -> str:
    """Show label map, picture and photo side by side, as far as they can be read."""
    images, shown = [], []
    readers: list[tuple[str, str | None, Callable[[Path], Image.Image], bool]] = [
        ("generated", item["file"], _open, False),
        ("real", item.get("real"), _open, False),
    ]
    if space is not None:
        readers.insert(0, ("label map", item.get("label"), lambda path: _colored(path, space), True))
    for role, path, read, ids in readers:
        if not path:
            continue
        try:
            images.append(picture(read(Path(path)), f"{role} of {item['name']}", ids=ids))
            shown.append(role)
        except (OSError, Lab2PixError):  # moved since: the page does without
            continue
    caption = f"{escape(item['name'])}: {number(item['score'])}"
    row = f'<div class="row">{"".join(images)}</div>' if images else ""
    return f"<figure>{row}<figcaption>{caption}<br>{escape(', '.join(shown))}</figcaption></figure>"


def _open(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _colored(path: Path, space: LabelSpace) -> Image.Image:
    return to_pil(space.to_colors(read_label(path, space)))


def _left_out(report: Mapping[str, Any]) -> str:
    broken, unmatched = report.get("broken") or [], report.get("unmatched") or []
    rows = [f"<li>{escape(item['file'])}: {escape(item['reason'])}</li>" for item in broken]
    rows += [f"<li>{escape(name)}: without partner</li>" for name in unmatched[:50]]
    if len(unmatched) > 50:
        rows.append(f"<li>and {len(unmatched) - 50:,} more without partner</li>")
    return f"<h2>Left out</h2><ul>{''.join(rows)}</ul>" if rows else ""


def _facts(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the protocol, one line for each plain value."""
    lines = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            lines += _facts(value, f"{name}.")
        else:
            lines.append(f"<dt>{escape(name)}</dt><dd>{escape('none' if value is None else str(value))}</dd>")
    return lines

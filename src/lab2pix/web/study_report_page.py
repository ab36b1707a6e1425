"""The report of a user study as a page: one file that needs nothing beside it."""

from __future__ import annotations

from html import escape
from importlib import resources
from string import Template
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab2pix.web.study_report import MethodScore, Participant, StudyReport

__all__ = ["report_page"]


def report_page(report: StudyReport) -> str:
    """Return the page's HTML."""
    template = resources.files("lab2pix.web").joinpath("pages", "study_report.html").read_text(encoding="utf-8")
    methods = len(report.methods)
    best = max(report.methods, key=lambda one: one.mean)
    return Template(template).substitute(
        summary=escape(_summary(report, best)),
        rows="\n".join(_row(cells, cells[0] == best.name) for cells in report.rows()),
        axis="".join(f'<i style="left:{_percent(value, methods)}">{value}</i>' for value in range(1, methods + 1)),
        intervals="\n".join(_interval(one, methods) for one in report.methods),
        ranks="\n".join(_ranks(one) for one in report.methods),
        legend="".join(f'<li><i class="{_shade(rank, methods)}"></i>{rank + 1}</li>' for rank in range(methods)),
        shades=_shades(methods),
        notes="\n".join(f"<li>{escape(note[:1].upper() + note[1:])}</li>" for note in report.notes()),
        participants="\n".join(_participant(one) for one in report.participants),
        facts="\n".join(f"<tr><th>{name}</th><td>{escape(value)}</td></tr>" for name, value in _facts(report)),
    )


def _summary(report: StudyReport, best: MethodScore) -> str:
    people = len(report.participants)
    who = "One person" if people == 1 else f"{people} people"
    return (
        f"{who} ranked the pictures of {len(report.methods)} methods, {report.rankings} times in all. "
        f"The highest mean score, {best.mean:.2f}, is that of {best.name}, first in {100 * best.top1:.0f} % of them."
    )


def _row(cells: tuple[str, ...], best: bool) -> str:
    inner = "".join(f"<td>{escape(cell)}</td>" for cell in cells[1:])
    return f'<tr{" class=best" if best else ""}><th scope="row">{escape(cells[0])}</th>{inner}</tr>'


def _percent(score: float, methods: int) -> str:
    """Return where a score lies between 1 and the number of methods."""
    return f"{100 * (score - 1) / (methods - 1):.2f}%"


def _interval(one: MethodScore, methods: int) -> str:
    low, high = one.interval
    width = f"{100 * (high - low) / (methods - 1):.2f}%"
    said = f"{one.name}: mean score {one.mean:.2f}, 95 % interval {low:.2f} to {high:.2f}"
    return (
        f'<div class="line"><span>{escape(one.name)}</span><div class="track" role="img" aria-label="{escape(said)}">'
        f'<b style="left:{_percent(low, methods)};width:{width}"></b>'
        f'<i style="left:{_percent(one.mean, methods)}"></i></div></div>'
    )


def _ranks(one: MethodScore) -> str:
    total = sum(one.ranks)
    said = ", ".join(f"rank {rank + 1}: {count}" for rank, count in enumerate(one.ranks))
    parts = "".join(
        f'<b class="{_shade(rank, len(one.ranks))}" style="flex:{count}" title="rank {rank + 1}: {count} of {total}">'
        f"{f'{round(100 * count / total)}%' if count / total > 0.05 else ''}</b>"
        for rank, count in enumerate(one.ranks)
        if count
    )
    name = escape(one.name)
    return (
        f'<div class="line"><span>{name}</span>'
        f'<div class="stack" role="img" aria-label="{name}: {said}">{parts}</div></div>'
    )


def _shade(rank: int, methods: int) -> str:
    """Return the class that a rank is coloured by; the better half has light words on it."""
    return f"r{rank + 1}{' deep' if rank < (methods - 1) / 2 else ''}"


def _shades(methods: int) -> str:
    """Return one style rule per rank, from the accent to nearly paper."""
    shares = [round(100 - 84 * rank / (methods - 1)) for rank in range(methods)]
    return "\n".join(
        f".r{rank} {{ background: color-mix(in srgb, var(--accent) {share}%, var(--card)); }}"
        for rank, share in enumerate(shares, start=1)
    )


def _participant(one: Participant) -> str:
    state = "finished" if one.finished else "unfinished"
    return (
        f'<tr><th scope="row">{escape(one.name)}</th><td>{one.ranked} of {one.samples}</td><td>{state}</td>'
        f"<td>{one.median_seconds:.0f} s</td></tr>"
    )


def _facts(report: StudyReport) -> list[tuple[str, str]]:
    study, protocol = report.study, report.to_dict()["protocol"]
    return [
        ("Samples", f"{study.samples} for each participant, of {len(study.pool)}"),
        ("Points", protocol["points"]),
        ("Label space", study.label_space or "none given; label maps are shown as they are"),
        ("Interval", f"95 %, bootstrap over participants, then samples, {report.resamples} times, seed {report.seed}"),
        ("Study", f"seed {study.seed}, made {study.created}"),
        ("Report", f"lab2pix {protocol['lab2pix']}, {protocol['created']}"),
    ]

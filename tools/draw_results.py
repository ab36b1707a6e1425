"""Draw what the benchmarks wrote, for the page of results.

    python -m tools.draw_results

Pictures are transparent, with letters and lines of a gray that reads on light and dark pages; command, machine and
versions stand below each. Only rows of the CPU are drawn.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
INK = "#777d86"
COLORS = {
    "plain": "#a9afb8",
    "modules": "#8fb3d9",
    "present": "#2f86d6",
    "fast": "#2f86d6",
    "thread": "#2f86d6",
    "fast-bf16": "#e08a1e",
    "1 worker": "#e08a1e",
    "2 workers": "#3aa56b",
}
STYLE = {
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 10,
    "axes.titlesize": 11,
    "legend.frameon": False,
    "svg.hashsalt": "lab2pix",  # the same numbers give the same file
}


def grouped(
    axes: Axes, groups: Sequence[str], series: Mapping[str, Sequence[float]], label: Callable[[float, float], str]
) -> None:
    """Draw horizontal bars: a group for each name, in it a bar for each way.

    Args:
        axes: where to.
        groups: their names, from the top.
        series: by way, a value for each group.
        label: what stands behind a bar, from its value and that of the first way.
    """
    ways = list(series)
    thick = 0.8 / len(ways)
    first = series[ways[0]]
    for place, way in enumerate(ways):
        middles = [group - 0.4 + thick * (place + 0.5) for group in range(len(groups))]
        axes.barh(middles, series[way], thick * 0.92, color=COLORS[way], label=way)
        for middle, value, start in zip(middles, series[way], first, strict=True):
            axes.annotate(f" {label(value, start)}", (value, middle), va="center", fontsize=8, annotation_clip=False)
    axes.set_yticks(range(len(groups)), groups)
    axes.invert_yaxis()
    axes.margins(x=0.16)
    axes.tick_params(axis="y", length=0)


def ordered(values: Iterable[str]) -> list[str]:
    """Return each value once, in the order of their first appearance."""
    return list(dict.fromkeys(values))


def on_cpu(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows that were measured on the CPU; older files have no others, and do not say so."""
    return [row for row in record["rows"] if row.get("device", "cpu") == "cpu"]


def draw_inference(record: Mapping[str, Any]) -> Figure:
    """Draw seconds per picture by what is drawn and how."""
    rows = on_cpu(record)
    groups, ways = ordered(row["row"] for row in rows), ordered(row["way"] for row in rows)
    seconds = {(row["row"], row["way"]): row["seconds"] for row in rows}
    figure = Figure((8, 1 + 0.95 * len(groups)), layout="constrained")
    axes = figure.subplots()
    series = {way: [seconds[group, way] for group in groups] for way in ways}
    grouped(axes, groups, series, lambda value, plain: f"{value:.2f} s, {plain / value:.1f}×")
    axes.set_xlabel("seconds of processor time per picture")
    figure.legend(loc="outside upper center", ncols=len(ways))
    return figure


def draw_train_step(record: Mapping[str, Any]) -> Figure:
    """Draw each variant's time and memory as shares of the plain step's."""
    rows = on_cpu(record)
    plain = next(row for row in rows if row["variant"] == "no savings")
    names = [row["variant"] for row in rows]
    figure = Figure((8, 1.2 + 0.3 * len(rows)), layout="constrained")
    time, memory = figure.subplots(1, 2, sharey=True)
    kinds = (time, "step_s", "time", "s", 1), (memory, "peak_mib", "peak memory", "MiB", 0)
    for axes, key, title, unit, digits in kinds:
        shares = [row[key] / plain[key] for row in rows]
        hues = [
            COLORS["plain" if row is plain else "modules" if "without" in row["variant"] else "fast"] for row in rows
        ]
        axes.barh(range(len(rows)), shares, 0.75, color=hues)
        for place, share in enumerate(shares):
            axes.annotate(f" {share:.2f}", (share, place), va="center", fontsize=8)
        axes.set_title(f"{title} (plain: {plain[key]:,.{digits}f} {unit})")
        axes.set_xlabel("of the plain step")
        axes.margins(x=0.12)
        axes.tick_params(axis="y", length=0)
    time.set_yticks(range(len(rows)), names)
    time.invert_yaxis()
    return figure


def draw_data(record: Mapping[str, Any]) -> Figure:
    """Draw opening large sets, in time and memory, and waiting in training."""
    opens, waits = record["opening"]["rows"], record["waiting"]["rows"]
    sets = ordered(row["set"] for row in opens)
    opening = {(row["set"], row["way"]): row for row in opens}
    trainings = ordered(f"{row['source']}, epoch {row['epoch']}" for row in waits)
    waiting = {(f"{row['source']}, epoch {row['epoch']}", row["way"]): row for row in waits}
    figure = Figure((9, 2.2 + 0.55 * len(sets) + 0.8 * len(trainings)), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(0.55 * len(sets) + 1, 0.8 * len(trainings) + 1))
    ways = ordered(row["way"] for row in opens)
    time, memory = above.subplots(1, 2)
    for axes, key, title in ((time, "again_cpu_s", "seconds of processor time"), (memory, "held_mib", "MiB of memory")):
        grouped(axes, sets, {way: [opening[row, way][key] for row in sets] for way in ways}, lambda v, _: f"{v:.3g}")
        axes.set_xlabel(title)
    time.set_title(f"Opening {opens[0]['pairs']:,} pairs again")
    memory.set_yticklabels([])
    memory.legend(loc="upper right")
    axes = below.subplots()
    readers = ordered(row["way"] for row in waits)
    series = {way: [100 * waiting[row, way]["waiting"] for row in trainings] for way in readers}
    grouped(axes, trainings, series, lambda v, _: f"{v:.1f} %")
    axes.set_title("Share of a small training's time in which steps wait for data")
    axes.legend(loc="lower right")
    return figure


def draw_scaling(record: Mapping[str, Any]) -> Figure:
    """Draw seconds of a step and of a picture as one thing changes, and steps per second of several processes."""
    rows = on_cpu(record)
    changes = [name for name in ordered(row["axis"] for row in rows) if name != "processes"]
    figure = Figure((9.5, 6), layout="constrained")
    *panels, legend = list(figure.subplots(2, 3).flat)
    for axes, name in zip(panels, [*changes, "processes"], strict=True):
        axes.set_title(_CHANGES[name])
        if name == "processes":
            _processes(axes, [row for row in rows if row["axis"] == name])
            continue
        for what, mark, color in (("step", "o", COLORS["fast"]), ("picture", "^", COLORS["fast-bf16"])):
            for way, line in (("plain", "--"), ("present", "-")):
                chosen = [row for row in rows if (row["axis"], row["what"], row["way"]) == (name, what, way)]
                values, seconds = ([row[key] for row in chosen] for key in ("value", "seconds"))
                axes.loglog(values, seconds, line + mark, color=color, label=f"{what}, {way}")
        axes.set_xticks(values, [str(value) for value in values])
        axes.minorticks_off()
        axes.set_ylabel("seconds of processor time")
    legend.set_axis_off()
    legend.legend(*panels[0].get_legend_handles_labels(), loc="center")
    return figure


_CHANGES = {
    "size": "height and width, pixels",
    "width": "width of the networks",
    "classes": "classes",
    "batch": "batch size",
    "processes": "processes: steps per second in all",
}


def _processes(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    counts = ordered(str(row["value"]) for row in rows)
    for place, way in enumerate(("plain", "present")):
        rates = [row["steps_per_s"] for row in rows if row["way"] == way]
        axes.bar(
            [group + 0.4 * (place - 0.5) for group in range(len(counts))], rates, 0.38, color=COLORS[way], label=way
        )
    axes.set_xticks(range(len(counts)), counts)
    axes.margins(y=0.25)
    axes.legend(loc="upper left", ncols=2)


PICTURES = {
    "inference": draw_inference,
    "train_step": draw_train_step,
    "data": draw_data,
    "scaling": draw_scaling,
}
"""The benchmarks, by the names of their files."""


def footer(record: Mapping[str, Any]) -> str:
    """Return the commands that measured what is drawn, and on which machine."""
    parts = [record] if "command" in record else [part for part in record.values() if isinstance(part, dict)]
    lines = [part["command"] for part in parts]
    versions = ", ".join(f"{package} {version}" for package, version in parts[-1]["versions"].items())
    lines += ordered(f"{part['machine']}; {versions}" for part in parts)
    return "\n".join(textwrap.fill(line, 120, subsequent_indent="    ") for line in lines)


def draw(name: str, record: Mapping[str, Any], out: Path) -> Path:
    """Draw one benchmark and return the picture's file."""
    with rc_context(STYLE):
        figure = PICTURES[name](record)
        figure.supxlabel(footer(record), fontsize=7, x=0.01, ha="left", family="monospace")
        file = out / f"speed_{name}.svg"
        FigureCanvasSVG(figure)
        figure.savefig(file, metadata={"Date": None}, transparent=True)
    return file


def main(given: Sequence[str] | None = None) -> None:
    """Draw them all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder of what benchmarks wrote"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "images")
    parser.add_argument("--only", nargs="+", choices=PICTURES, default=list(PICTURES))
    args = parser.parse_args(given)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        record = json.loads((args.results / f"{name}.json").read_text(encoding="utf-8"))
        print(draw(name, record, args.out))


if __name__ == "__main__":
    main()

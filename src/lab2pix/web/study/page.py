"""Files of a study report: JSON, Markdown, and a self-contained HTML page."""

from __future__ import annotations

import json
from pathlib import Path

from lab2pix.errors import OutputError
from lab2pix.reporting.html import render
from lab2pix.utils.files import output_errors, write_atomically
from lab2pix.web.study.report import REPORT_FORMAT, StudyReport


def save_report(report: StudyReport, out: Path) -> list[Path]:
    """Write `report.json`, `report.md` and `report.html`, replacing those of an earlier report.

    Returns:
        The files.

    Raises:
        OutputError: the folder cannot be written, or contains files of something else with these names.
    """
    _refuse_other_files(out)
    texts = {
        "report.json": json.dumps(report.to_dict(), indent=1, ensure_ascii=False) + "\n",
        "report.md": report.to_markdown(),
        "report.html": report_page(report),
    }
    with output_errors(out, "choose another --out"):
        out.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_atomically(out / name, text)
    return [out / name for name in texts]


def _refuse_other_files(out: Path) -> None:
    """Refuse to replace a `report.json` of another format, or a page or table without a `report.json`."""
    file = out / "report.json"
    if not file.exists():
        for other in (out / "report.md", out / "report.html"):
            if other.exists():
                raise OutputError(f"{other} is not a study's (no report.json is next to it); choose another --out")
        return
    try:
        own = json.loads(file.read_bytes())["format"] == REPORT_FORMAT
    except (OSError, ValueError, LookupError, TypeError):
        own = False
    if not own:
        raise OutputError(f"{file} is not a study's report and would be replaced; choose another --out")


def report_page(report: StudyReport) -> str:
    """Return the report as HTML."""
    study, protocol = report.study, report.to_dict()["protocol"]
    about = {
        "Samples": f"{study.samples} per participant, from a pool of {len(study.pool)}",
        "Points": protocol["points"],
        "Label space": study.label_space or "none given; label maps are shown as they are",
        "Interval": f"95 %, bootstrap over participants, then samples, {report.resamples} times, seed {report.seed}",
        "Study": f"seed {study.seed}, made {study.created}",
        "Report": f"lab2pix {protocol['lab2pix']}, {protocol['created']}",
    }
    best = max(report.methods, key=lambda one: one.mean)
    return render("study.html", title="User study: report", report=report, best=best, protocol=about)

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

from tools import draw_results

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def bars(picture: Path, color: str) -> int:
    """Count the shapes of one colour in a picture."""
    found = ElementTree.parse(picture).getroot().iter("{http://www.w3.org/2000/svg}path")
    return sum(f"fill: {color}" in (shape.get("style") or "") for shape in found)


def test_what_was_measured_is_drawn(tmp_path) -> None:
    draw_results.main(["--out", str(tmp_path)])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("speed_data.svg", "speed_inference.svg", "speed_scaling.svg", "speed_train_step.svg")
    ]
    rows = draw_results.on_cpu(json.loads((RESULTS / "inference.json").read_text()))
    plain = sum(row["way"] == "plain" for row in rows)
    assert bars(tmp_path / "speed_inference.svg", draw_results.COLORS["plain"]) == plain + 1  # and one in the legend
    step = draw_results.on_cpu(json.loads((RESULTS / "train_step.json").read_text()))
    without = sum("without" in row["variant"] for row in step)
    assert bars(tmp_path / "speed_train_step.svg", draw_results.COLORS["modules"]) == 2 * without
    # Drawn anew, the same numbers give the same file, so that what is committed changes with them only.
    again = tmp_path / "again"
    draw_results.main(["--only", "scaling", "--out", str(again)])
    assert (again / "speed_scaling.svg").read_text() == (tmp_path / "speed_scaling.svg").read_text()


def test_the_page_shows_every_picture() -> None:
    page = (ROOT / "docs" / "results" / "speed.md").read_text()
    for name in draw_results.PICTURES:
        assert f"](images/speed_{name}.svg)" in page
        assert (ROOT / "docs" / "results" / "images" / f"speed_{name}.svg").is_file()


def test_ways_and_settings_of_the_training_step_are_drawn_however_many(tmp_path) -> None:
    record = {"command": "python x.py", "machine": "m", "versions": {"torch": "1"}}
    names = ("all savings", "bf16, channels-last", "compiled", "no savings")
    row = {"peak_mib": 100.0, "device": "cpu"}
    record["rows"] = [row | {"variant": name, "step_s": 1.0 + place} for place, name in enumerate(names)]
    record["rows"] += [row | {"variant": "all savings", "step_s": 9.0, "device": "cuda"}]
    picture = draw_results.draw("train_step", record, tmp_path)
    assert bars(picture, draw_results.COLORS["fast"]) == 2 * 3 and bars(picture, draw_results.COLORS["plain"]) == 2


def test_commands_and_machine_stand_below() -> None:
    part = {"machine": "m, 1 threads", "versions": {"torch": "1", "python": "2"}}
    record = {"about": "text", "a": part | {"command": "python a.py"}, "b": part | {"command": "python b.py"}}
    assert draw_results.footer(record) == "python a.py\npython b.py\nm, 1 threads; torch 1, python 2"
    assert draw_results.footer(part | {"command": "python a.py"}) == "python a.py\nm, 1 threads; torch 1, python 2"

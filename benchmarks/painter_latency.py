"""How long the painter takes: from start to the first picture, and from brush release to the new picture, in Chromium.

python benchmarks/painter_latency.py [MODEL] --out painter_latency.json

MODEL is whatever `lab2pix paint` takes, of drawn scenes; without one the model that comes along. The server is started
as a user starts it, and draws as it chooses to at start. The first picture is there when the page shows it; before it
lie Python's imports, reading the weights, the measurement that chooses the way to draw, Chromium, and the page. Each
stroke is drawn with the mouse, by another class than the one before; its time ends when the page shows its picture.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from _environment import environment
from playwright.sync_api import Browser, Page, sync_playwright

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
NUMBER = "() => Number(document.getElementById('picture').dataset.number || 0)"
"""Which picture the page shows: a number that rises with each."""
CLASSES = ("water", "house", "tree", "sand")


def wait_for_picture(page: Page, before: int) -> None:
    """Wait until the page shows a later picture, and the one of the drawing as it is."""
    while page.evaluate(NUMBER) <= before:  # the page's security policy lets no text become a program that waits
        page.wait_for_timeout(5)
    page.locator("#picture-stage[aria-busy=false]").wait_for()


def stroke(page: Page, turn: int, strokes: int) -> float:
    """Draw a stroke across the sheet, and return the seconds from its end to its picture."""
    page.get_by_role("radio", name=CLASSES[turn % len(CLASSES)], exact=True).check()
    frame = page.locator("#canvas").bounding_box()
    assert frame is not None
    left, top = frame["x"] + 0.15 * frame["width"], frame["y"] + frame["height"] * (0.3 + 0.5 * turn / strokes)
    page.mouse.move(left, top)
    page.mouse.down()
    page.mouse.move(left + 0.4 * frame["width"], top + 0.05 * frame["height"], steps=4)
    page.wait_for_timeout(400)  # what the page draws while the brush is down has its own time
    page.mouse.move(left + 0.6 * frame["width"], top, steps=2)
    before = page.evaluate(NUMBER)
    start = time.perf_counter()
    page.mouse.up()
    wait_for_picture(page, before)
    return time.perf_counter() - start


def measure(model: str | None, strokes: int, launch: Callable[[], Browser]) -> dict[str, Any]:
    """Start the painter, open its page in a browser that is started then, and draw."""
    command = [sys.executable, "-m", "lab2pix", "paint", *([model] if model else []), "--port", "0", "--no-browser"]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            found = re.search(r"http://\S+/", server.stdout.readline())
            assert found is not None
            drawing = server.stdout.readline().strip().removeprefix("drawing: ")
            page = launch().new_page(viewport={"width": 1440, "height": 900})
            page.goto(found.group())
            page.locator("body[data-ready]").wait_for()
            wait_for_picture(page, 0)
            first = time.perf_counter() - start
            said = json.loads(page.evaluate("async () => (await fetch('/api/model')).text()"))
            page.keyboard.press("b")
            took = [stroke(page, turn, strokes) for turn in range(strokes)]
            page.close()
        finally:
            server.terminate()
    return {
        "model": said["name"],
        "size": said["size"],
        "drawing": drawing,
        "start_to_first_picture": first,
        "strokes": took,
    }


def main(given: Sequence[str] | None = None) -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="default: the model that comes along")
    parser.add_argument("--strokes", type=int, default=20)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(given)
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        sys.exit("There is no Chromium here; install it with the system's packages.")
    with sync_playwright() as playwright:
        found = measure(
            args.model,
            args.strokes,
            lambda: playwright.chromium.launch(executable_path=program, args=list(FLAGS)),
        )
    took = found["strokes"]
    print(f"{found['model']} at {found['size']}, drawing: {found['drawing']}")
    print(f"start to first picture: {found['start_to_first_picture']:.1f} s")
    print(f"brush release to picture: median {statistics.median(took):.2f} s, worst {max(took):.2f} s of {len(took)}")
    if args.out:
        args.out.write_text(json.dumps({**environment(), **found}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

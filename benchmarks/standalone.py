"""Size, speed and exactness of a standalone page, as `lab2pix export MODEL --web PAGE` writes it, in Chromium.

    python benchmarks/standalone.py PAGE MODEL --out benchmarks/results/standalone.json

The page is served by `http.server` under a sub-path. MODEL is the one that was exported; it must have the classes of
scenes.
"""

from __future__ import annotations

import argparse
import base64
import shutil
import statistics
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from _environment import environment, write_json
from painter import CHROMIUM_FLAGS, stroke, wait_for_image
from playwright.sync_api import sync_playwright

from lab2pix import Synthesizer

READ = """(id) => {
  const canvas = document.getElementById(id);
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return [canvas.height, canvas.width, btoa(data.reduce((text, byte) => text + String.fromCharCode(byte), ""))];
}"""


class Handler(SimpleHTTPRequestHandler):
    """Serves files without a log."""

    def log_message(self, form: str, *args: object) -> None:
        """Say nothing."""


def read(page: Any, name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the pixels of a canvas, `[H, W, 3]` uint8."""
    height, width, data = page.evaluate(READ, name)
    return np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)[..., :3]


def visit(page: Any, address: str) -> float:
    """Open the page, and return the seconds to the first image."""
    start = time.perf_counter()
    page.goto(address)
    page.locator("body[data-ready]").wait_for()
    wait_for_image(page, 0)
    return time.perf_counter() - start


def measure(page: Any, address: str, model: Synthesizer, strokes: int, stop: Any) -> dict[str, Any]:
    """Return the times of visits and strokes, and the differences from PyTorch's image; `stop` stops the host."""
    page.set_default_timeout(180_000)
    first, again = visit(page, address), visit(page, address)
    colors = model.label_space.palette.numpy()
    ids = np.abs(read(page, "canvas")[..., None, :].astype(int) - colors).sum(-1).argmin(-1)
    off = np.abs(read(page, "image").astype(int) - np.asarray(model(ids, seed=1).images[0]))
    took = [stroke(page, turn, strokes) for turn in range(strokes)]
    stop()
    return {
        "first_visit": first,
        "second_visit": again,
        "without_host": visit(page, address),
        "threads": page.evaluate("crossOriginIsolated ? navigator.hardwareConcurrency : 1"),
        "webgpu": page.evaluate("(async () => Boolean(await navigator.gpu?.requestAdapter()))()"),
        "strokes": took,
        "largest_difference": int(off.max()),
        "share_within_2_levels": float((off <= 2).mean()),
    }


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("model")
    parser.add_argument("--strokes", type=int, default=20)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        sys.exit("Chromium is missing; install it with the system's packages")
    folder = args.page.resolve()
    host = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder.parent)))
    threading.Thread(target=host.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{host.server_address[1]}/{folder.name}/"

    def stop() -> None:
        host.shutdown()
        host.server_close()

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(CHROMIUM_FLAGS))
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        found = measure(page, address, Synthesizer.load(args.model, device="cpu"), args.strokes, stop)
        browser.close()
    sizes = {file.relative_to(folder).as_posix(): file.stat().st_size for file in folder.rglob("*") if file.is_file()}
    large = {name: size for name, size in sizes.items() if size > 500_000}
    found["bytes"] = {**large, "everything else": sum(sizes.values()) - sum(large.values())}
    took = found["strokes"]
    print({name: value for name, value in found.items() if name != "strokes"})
    print(f"brush release to image: median {statistics.median(took):.2f} s, worst {max(took):.2f} s of {len(took)}")
    if args.out:
        write_json(args.out, {**environment(), **found})


if __name__ == "__main__":
    main()

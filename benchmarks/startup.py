"""Time to start, and the slowdown of training and images by one busy process.

    python benchmarks/startup.py --reference ../lab2pix-0.1.0 --out benchmarks/results/startup.json

Checkouts take turns, in processes of their own whose environment sets nothing of OpenMP. `import` is
`import lab2pix; lab2pix.Synthesizer`, `first image` is `lab2pix generate scenes MAP` from the command to its end.
`step` is a step of v2-small, `generate` the command with eight samples, `painter` one request to `lab2pix paint`;
each is measured alone and beside a process that does nothing but compute. Seconds are by the clock, so run it on an
idle machine; `ratio` is the time beside the busy process over the time alone.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from urllib.request import Request, urlopen

from _environment import environment, write_json
from PIL import Image

from lab2pix.data.scenes.dataset import draw_scene

OPENMP = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
TRAIN = ("v2-small", "train.steps=5", "monitor.log_every=1", "data.val_split=null", "monitor.tensorboard=false")
SAMPLES, REQUESTS = 8, 5


class Checkout:
    """Commands of one checkout of the project."""

    def __init__(self, root: Path, label_map: Path) -> None:
        self.label_map = label_map
        kept = {name: value for name, value in os.environ.items() if name not in OPENMP}
        self.environment = kept | {"PYTHONPATH": str(root / "src")}

    def run(self, *words: str | Path) -> float:
        """Run Python, and return the seconds."""
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, *words], env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"{words} failed: {done.stderr}")
        return time.perf_counter() - start

    def load(self) -> float:
        """Import the package and its inference API."""
        return self.run("-c", "import lab2pix; lab2pix.Synthesizer")

    def generate(self, samples: int = 1) -> float:
        """Generate images with the shipped model."""
        with tempfile.TemporaryDirectory() as folder:
            words = ("scenes", self.label_map, "--label-space=scenes", f"--samples={samples}", f"--out={folder}/out")
            return self.run("-m", "lab2pix", "generate", *words)

    def step(self) -> float:
        """Train for some steps, and return the median seconds of a step after the first two."""
        with tempfile.TemporaryDirectory() as folder:
            self.run("-m", "lab2pix", "train", *TRAIN, f"--out={folder}/run")
            rows = [json.loads(line) for line in Path(folder, "run", "log.jsonl").read_text().splitlines()]
        times = [row["seconds"] for row in rows if "losses" in row]
        return statistics.median(after - before for before, after in pairwise(times[1:]))

    def paint(self) -> float:
        """Serve the painter, and return the median seconds of a request after the first."""
        with tempfile.TemporaryFile("w+") as log:
            words = [sys.executable, "-m", "lab2pix", "paint", "--no-browser", "--port=0"]
            server = subprocess.Popen(words, env=self.environment, stdout=log, stderr=subprocess.STDOUT)
            try:
                while (found := re.search(r"http://127\.0\.0\.1:\d+", _text(log))) is None:
                    if server.poll() is not None:
                        sys.exit(f"the painter did not start: {_text(log)}")
                    time.sleep(0.05)
                times = [self._request(found[0], seed) for seed in range(REQUESTS + 1)]
            finally:
                server.terminate()
                server.wait(60)
        return statistics.median(times[1:])

    def _request(self, origin: str, seed: int) -> float:
        kind = {"Content-Type": "image/png"}
        request = Request(f"{origin}/api/synthesize?seed={seed}", self.label_map.read_bytes(), kind)
        start = time.perf_counter()
        with urlopen(request, timeout=300) as response:
            response.read()
        return time.perf_counter() - start


def _text(log: tempfile._TemporaryFileWrapper[str]) -> str:
    log.seek(0)
    return log.read()


@contextmanager
def busy(wanted: bool) -> Iterator[None]:
    """Run a process that does nothing but compute, if wanted."""
    if not wanted:
        yield
        return
    neighbor = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        neighbor.kill()
        neighbor.wait()


def measure(checkouts: dict[str, Checkout], repeats: int) -> list[dict[str, object]]:
    """Return a row for each checkout and what was measured: medians, and their ratio."""
    calls: dict[str, tuple[Callable[[Checkout], float], Sequence[bool]]] = {
        "import": (Checkout.load, (False,)),
        "first image": (Checkout.generate, (False,)),
        "step": (Checkout.step, (False, True)),
        "generate": (lambda checkout: checkout.generate(SAMPLES), (False, True)),
        "painter": (Checkout.paint, (False, True)),
    }
    rows: list[dict[str, object]] = []
    for what, (call, neighbors) in calls.items():
        taken: dict[tuple[str, bool], list[float]] = defaultdict(list)
        for _ in range(repeats):
            for name, checkout in checkouts.items():
                for neighbor in neighbors:
                    with busy(neighbor):
                        taken[name, neighbor].append(call(checkout))
        for name in checkouts:
            row: dict[str, object] = {"what": what, "checkout": name}
            alone, beside = (statistics.median(taken[name, flag] or [0]) for flag in (False, True))
            row |= {"seconds": alone, "all_seconds": taken[name, False]}
            if beside:
                row |= {"beside_busy": beside, "all_beside_busy": taken[name, True], "ratio": beside / alone}
            print(f"{what:12} {name:10} {alone:8.3f} s" + (f"  beside busy {beside:8.3f} s" if beside else ""))
            rows.append(row)
    return rows


def main(given: Sequence[str] | None = None) -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="another checkout to compare with")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(given)
    with tempfile.TemporaryDirectory() as folder:
        label_map = Path(folder) / "map.png"
        Image.fromarray(draw_scene(0, 123_456, (256, 256))[1].byte().numpy()).save(label_map)
        roots = {"this": Path(__file__).parents[1]} | ({} if args.reference is None else {"reference": args.reference})
        rows = measure({name: Checkout(root.absolute(), label_map) for name, root in roots.items()}, args.repeats)
    write_json(args.out, environment() | {"samples": SAMPLES, "rows": rows})


if __name__ == "__main__":
    main()

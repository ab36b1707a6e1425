"""Latency and load of the painter's server.

    python benchmarks/painter.py latency [MODEL] --out benchmarks/results/painter_latency.json
    OMP_NUM_THREADS=1 python benchmarks/painter.py load [MODEL] --out benchmarks/results/painter_load.json

`latency` starts `lab2pix paint` and Chromium, and measures the time to the first image and from brush release to the
new image. MODEL is a model of scenes, by default the shipped one.

`load` serves a tiny untrained model, or MODEL. It sends fuzzed requests, generated from the API's description and
beyond: no response may have status 500 or more, and every error must be one sentence. Then clients request images in
parallel: each image must equal, byte by byte, the one computed here, and other responses must be 429. The command
fails if the server's memory grows by more than a tenth meanwhile.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import torch
from _environment import environment, write_json
from PIL import Image

from lab2pix import LabelSpace, Synthesizer
from lab2pix.data.scenes.dataset import draw_scene
from lab2pix.inference import ModelInfo
from lab2pix.methods import build_generator, read_config
from lab2pix.web.painter.formats import FORMATS
from lab2pix.web.painter.images import encode_png
from lab2pix.web.painter.routes import openapi_schema

SIDE = 64
TINY = {"width": 2, "modulation_hidden": 4, "noise_dim": 16, "global_encoder": {"width": 2, "max_width": 8}}
RETRY_SECONDS = 0.1
ALLOWED = (200, 400, 403, 404, 405, 408, 409, 413, 415, 422, 429)
CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
)
CLASSES = ("water", "house", "tree", "sand")


class Server:
    """`lab2pix paint` in a process of its own."""

    def __init__(self, model: str | Path | None, log: Path) -> None:
        command = [sys.executable, "-m", "lab2pix", "paint", str(model or "scenes"), "--no-browser"]
        self.log = log
        with log.open("wb") as out:
            self._process = subprocess.Popen([*command, "--port", "0"], stdout=out, stderr=subprocess.STDOUT)
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)/\S*\n?.*\nmode: (.*)\n", log.read_text())):
            if self._process.poll() is not None:
                sys.exit(f"the painter did not start: {log.read_text()}")
            time.sleep(0.02)
        self.port, self.mode = int(found.group(1)), found.group(2)

    def request(
        self, method: str, path: str, body: bytes | None = None, kind: str = "image/png"
    ) -> tuple[int, str, bytes]:
        """Return status, `Retry-After`, and content of the response to a request on a new connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, body, {} if body is None else {"Content-Type": kind})
            response = connection.getresponse()
            return response.status, response.getheader("retry-after") or "", response.read()
        finally:
            connection.close()

    def memory(self) -> float:
        """Return the resident memory in MiB, or NaN where /proc does not exist."""
        file = Path(f"/proc/{self._process.pid}/status")
        found = re.search(r"VmRSS:\s+(\d+) kB", file.read_text()) if file.exists() else None
        return float(found.group(1)) / 1024 if found else float("nan")

    def stop(self) -> None:
        """Stop as Ctrl-C does."""
        self._process.terminate()
        self._process.wait(60)


@contextmanager
def serve(model: str | Path | None) -> Iterator[Server]:
    """Serve a model, and fail if the server prints a traceback."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(model, Path(folder) / "log")
        try:
            yield server
            if "Traceback" in server.log.read_text():
                sys.exit(f"the painter failed: {server.log.read_text()[-2000:]}")
        finally:
            server.stop()


# --- latency --------------------------------------------------------------------------------------------------------


def measure_latency(model: str | None, strokes: int, launch: Callable[[], Any]) -> dict[str, Any]:
    """Measure the time from start to the first image, and from brush release to the new image.

    Args:
        model: the model; None is the shipped one.
        strokes: number of strokes.
        launch: starts a Playwright browser.
    """
    start = time.perf_counter()
    with serve(model) as server:
        page = launch().new_page(viewport={"width": 1440, "height": 900})
        page.goto(f"http://127.0.0.1:{server.port}/")
        page.locator("body[data-ready]").wait_for()
        wait_for_image(page, 0)
        first = time.perf_counter() - start
        described = json.loads(server.request("GET", "/api/model")[2])
        page.keyboard.press("b")
        took = [stroke(page, turn, strokes) for turn in range(strokes)]
        page.close()
    return {
        "model": described["name"],
        "size": described["size"],
        "mode": server.mode,
        "start_to_first_image": first,
        "strokes": took,
    }


def image_number(page: Any) -> int:
    """Return the number of the shown image, which increases with each new one."""
    return int(page.evaluate("() => Number(document.getElementById('image').dataset.number || 0)"))


def wait_for_image(page: Any, before: int) -> None:
    """Wait until the page shows a newer image, and the one of the current drawing."""
    while image_number(page) <= before:  # the page's security policy forbids Playwright's wait_for_function
        page.wait_for_timeout(5)
    page.locator("#image-stage[aria-busy=false]").wait_for()


def stroke(page: Any, turn: int, strokes: int) -> float:
    """Paint a stroke across the drawing, and return the seconds from its end to its image."""
    page.get_by_role("radio", name=CLASSES[turn % len(CLASSES)], exact=True).check()
    frame = page.locator("#canvas").bounding_box()
    left, top = frame["x"] + 0.15 * frame["width"], frame["y"] + frame["height"] * (0.3 + 0.5 * turn / strokes)
    page.mouse.move(left, top)
    page.mouse.down()
    page.mouse.move(left + 0.4 * frame["width"], top + 0.05 * frame["height"], steps=4)
    page.wait_for_timeout(400)  # excludes the images requested during the stroke
    page.mouse.move(left + 0.6 * frame["width"], top, steps=2)
    before = image_number(page)
    start = time.perf_counter()
    page.mouse.up()
    wait_for_image(page, before)
    return time.perf_counter() - start


def latency(args: argparse.Namespace) -> dict[str, Any]:
    """Run the mode `latency`."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        sys.exit("Chromium is missing; install it with the system's packages")
    with sync_playwright() as playwright:
        found = measure_latency(
            args.model,
            args.strokes,
            lambda: playwright.chromium.launch(executable_path=program, args=list(CHROMIUM_FLAGS)),
        )
    took = found["strokes"]
    print(f"{found['model']} at {found['size']}, mode: {found['mode']}")
    print(f"start to first image: {found['start_to_first_image']:.1f} s")
    print(f"brush release to image: median {statistics.median(took):.2f} s, worst {max(took):.2f} s of {len(took)}")
    return found


# --- load -----------------------------------------------------------------------------------------------------------


def tiny_model(folder: Path) -> Path:
    """Save an untrained model."""
    torch.manual_seed(0)
    config = read_config({"name": "tiny", "data": {"size": [SIDE, SIDE]}, "generator": TINY})
    space = LabelSpace.load("scenes")
    return Synthesizer(build_generator(config, space), ModelInfo(config, space, 0), device="cpu").save(folder)


def encode(pixels: np.ndarray, form: str = "PNG") -> bytes:
    """Encode an image."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format=form)
    return out.getvalue()


def fuzz(server: Server, wanted: int) -> dict[str, Any]:
    """Send at least so many fuzzed requests; return the counts of their statuses."""
    import schemathesis
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    @st.composite
    def bodies(draw: st.DrawFn) -> bytes:
        pixels = np.full(draw(st.sampled_from([(16, 16), (9, 7), (40, 30, 3)])), draw(st.integers(0, 15)), np.uint8)
        body = bytearray(encode(pixels, draw(st.sampled_from(["PNG", "PNG", "JPEG", "WEBP", "GIF"]))))
        for _ in range(draw(st.sampled_from([0, 0, 1, 3]))):
            start = draw(st.integers(0, len(body) - 1))
            body[start : start + draw(st.integers(0, 5))] = draw(st.binary(max_size=5))
        return bytes(body)

    names = st.sampled_from(["seed", "samples", "input_format", "output_format", "channel", "mix", "seed_b", "sead"])
    values = st.integers(0, 20).map(str) | st.sampled_from(["ids", "file", "0.5", "tab0tab0"]) | st.text()
    paths = st.sampled_from(["/api/synthesize"] * 4 + ["/api/labels"] * 2 + ["/api/random", "/api/model", "/"])
    methods = st.sampled_from(["POST"] * 16 + ["GET", "PUT", "DELETE", "OPTIONS"])
    types = st.sampled_from([*FORMATS, *FORMATS, "image/svg+xml", "application/json", ""])
    described, arbitrary = Counter[int](), Counter[int]()

    def check(status: int, content: bytes, counts: Counter[int]) -> None:
        counts[status] += 1
        if status not in ALLOWED:
            sys.exit(f"a response with status {status}: {content[:300]!r}")
        if status >= 400 and not (set(found := json.loads(content)) == {"error"} and found["error"].strip()):
            sys.exit(f"an error without a sentence: {content[:300]!r}")

    def rules(count: int) -> Any:
        return settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))

    def send_as_described(operation: Any, mode: Any, count: int) -> None:
        @rules(count)
        @given(case=operation.as_strategy(generation_mode=mode))
        def send(case: schemathesis.Case) -> None:
            # The description says only in words which parameters go together, and which bodies are images.
            checks = [schemathesis.checks.positive_data_acceptance]
            response = case.call_and_validate(base_url=f"http://127.0.0.1:{server.port}", excluded_checks=checks)
            check(response.status_code, response.content, described)

        send()

    @given(methods, paths, st.dictionaries(names, values, max_size=3), bodies() | st.binary(max_size=99), types)
    def send_anything(method: str, path: str, query: dict[str, str], body: bytes, kind: str) -> None:
        status, _, content = server.request(method, f"{path}?{urlencode(query, errors='replace')}", body, kind)
        check(status, content, arbitrary)

    for media_type in FORMATS:
        schemathesis.openapi.media_type(media_type, bodies())
    operations = [found.ok() for found in schemathesis.openapi.from_dict(openapi_schema()).get_all_operations()]
    modes = [(item, mode) for item in operations for mode in schemathesis.GenerationMode]
    modes = [(item, mode) for item, mode in modes if mode.is_positive or item.query or "{" in item.path]
    start, before = time.perf_counter(), server.memory()
    for operation, mode in modes:
        send_as_described(operation, mode, max(1, wanted // 2 // len(modes)))
    while (left := wanted - described.total() - arbitrary.total()) > 0:
        rules(left)(send_anything)()
    return {
        "requests": described.total() + arbitrary.total(),
        "seconds": time.perf_counter() - start,
        "statuses_as_described": {str(status): count for status, count in sorted(described.items())},
        "statuses_of_anything": {str(status): count for status, count in sorted(arbitrary.items())},
        "memory_mib": {"start": before, "end": server.memory()},
    }


def run_clients(server: Server, synthesizer: Synthesizer, clients: int, seconds: float) -> dict[str, Any]:
    """Let clients request images in parallel, and check every response."""
    requests = []
    for index in range(8):
        _, ids = draw_scene(index, 0, synthesizer.size)
        for seed in (1, 2):
            expected = encode_png(synthesizer(ids, seed=seed).tensor[0])
            requests.append((f"/api/synthesize?seed={seed}", encode(ids.numpy().astype(np.uint8)), expected))
    statuses, times, errors, lock = Counter[int](), list[float](), list[str](), threading.Lock()
    end = time.monotonic() + seconds

    def client(number: int) -> None:
        rng = random.Random(number)
        while time.monotonic() < end and not errors:
            path, body, expected = rng.choice(requests)
            begun = time.perf_counter()
            try:
                status, retry, content = server.request("POST", path, body)
            except OSError as error:
                errors.append(f"no response: {error}")
                return
            with lock:
                statuses[status] += 1
                if status == 200:
                    times.append(time.perf_counter() - begun)
                if not (content == expected if status == 200 else status == 429 and int(retry) >= 1):
                    errors.append(f"a wrong response with status {status}: {content[:200]!r}")
            if status == 429:
                time.sleep(RETRY_SECONDS)

    before, memory = server.memory(), []
    threads = [threading.Thread(target=client, args=(number,), daemon=True) for number in range(clients)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(1)
        memory.append(server.memory())
    after = server.memory()
    if errors or after > 1.1 * before:
        sys.exit(errors[0] if errors else f"memory grew from {before:.0f} to {after:.0f} MiB")
    return {
        "clients": clients,
        "seconds": seconds,
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "images_per_second": len(times) / seconds,
        "seconds_to_image": {"median": statistics.median(times), "worst": max(times)},
        "memory_mib": {"start": before, "end": after, "most": max([before, after, *memory])},
    }


def load(args: argparse.Namespace) -> dict[str, Any]:
    """Run the mode `load`."""
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or tiny_model(Path(folder) / "model")
        with serve(model) as server:
            mode = json.loads(server.request("GET", "/api/model")[2])["mode"]
            synthesizer = Synthesizer.load(model, device="cpu", optimize=mode)
            for _ in range(20):
                server.request("POST", "/api/random?seed=1")
            fuzzed = fuzz(server, args.requests)
            print(f"{fuzzed['requests']} fuzzed requests in {fuzzed['seconds']:.0f} s without an error of the server")
            found = run_clients(server, synthesizer, args.clients, args.seconds)
    times, memory = found["seconds_to_image"], found["memory_mib"]
    print(f"{found['clients']} clients for {found['seconds']:g} s: {found['statuses']}")
    print(f"{found['images_per_second']:.1f} images/s, median {times['median']:.2f} s, worst {times['worst']:.2f} s")
    print(f"memory {memory['start']:.0f} MiB at start, {memory['end']:.0f} at end, {memory['most']:.0f} at most")
    return {"model": args.model or f"tiny, untrained, {SIDE}x{SIDE}", "fuzz": fuzzed, "load": found}


def main(given: Sequence[str] | None = None) -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", choices=("latency", "load"))
    parser.add_argument("model", nargs="?")
    parser.add_argument("--strokes", type=int, default=20, help="for latency")
    parser.add_argument("--requests", type=int, default=5000, help="fuzzed requests, for load")
    parser.add_argument("--clients", type=int, default=50, help="for load")
    parser.add_argument("--seconds", type=float, default=60.0, help="duration of the parallel requests, for load")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(given)
    found = {"latency": latency, "load": load}[args.benchmark](args)
    if args.out:
        write_json(args.out, {**environment(), **found})


if __name__ == "__main__":
    main()

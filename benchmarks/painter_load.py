"""What the painter's server does under requests of every kind, and under fifty clients at once.

    OMP_NUM_THREADS=1 python benchmarks/painter_load.py --out benchmarks/results/painter_load.json

Starts `lab2pix paint` with a tiny untrained model (or MODEL) as a process of its own.

First it gets requests that schemathesis makes of the API's description, allowed ones and others, and label maps with
bytes changed, left out and repeated under parameters that are right and wrong: no answer may be the server's fault,
each error must be JSON with one sentence, each answer of a kind and form that the description names.

Then fifty clients draw for a minute, each again as soon as it has its answer, or after a tenth of a second where the
queue was full, whatever `Retry-After` says. Each picture must be, byte by byte, the one that this process draws of the
same label map and seed; all else must be a 429 that says when to come again.

The memory of the server's process is given at start, after each part, and at most; it fails where that grows by more
than a tenth while clients draw.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import schemathesis
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from surroundings import processor, write_json

import lab2pix
from lab2pix import LabelSpace, Synthesizer
from lab2pix.data.scenes.dataset import draw_scene
from lab2pix.inference import ModelInfo
from lab2pix.methods import build_generator, read_config
from lab2pix.web.painter_kinds import KINDS
from lab2pix.web.painter_pictures import picture_png
from lab2pix.web.painter_routes import describe

TINY = {"width": 2, "modulation_hidden": 4, "noise_dim": 16, "global_encoder": {"width": 2, "max_width": 8}}
SIDE = 64
PAUSE = 0.1
ALLOWED = (200, 400, 403, 404, 405, 408, 409, 413, 415, 422, 429)


def arguments(given_: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="a run, a checkpoint or weights; else a tiny untrained model")
    parser.add_argument("--requests", type=int, default=5000, help="of every kind")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0, help="for which they draw")
    parser.add_argument("--out", type=Path)
    return parser.parse_args(given_)


def tiny_model(folder: Path) -> Path:
    """Save a model that was never trained."""
    torch.manual_seed(0)
    config = read_config({"name": "tiny", "data": {"size": [SIDE, SIDE]}, "generator": TINY})
    space = LabelSpace.load("scenes")
    return Synthesizer(build_generator(config, space), ModelInfo(config, space, 0), device="cpu").save(folder)


class Server:
    """`lab2pix paint` in a process of its own.

    Attributes:
        port: where it listens.
    """

    def __init__(self, model: str | Path, log: Path) -> None:
        command = [
            sys.executable,
            "-m",
            "lab2pix",
            "paint",
            str(model),
            "--no-browser",
            "--port",
            "0",
            "--device",
            "cpu",
        ]
        self._log = log
        with log.open("wb") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)/", self.output())):
            if self._process.poll() is not None:
                sys.exit(f"the painter did not start: {self.output()}")
            time.sleep(0.1)
        self.port = int(found.group(1))

    def output(self) -> str:
        """Return what it printed."""
        return self._log.read_text()

    def ask(self, method: str, path: str, body: bytes | None = None, kind: str = "image/png") -> tuple[int, str, bytes]:
        """Send a request over a connection of its own; return status, `Retry-After` or else the kind, and content."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, body, {} if body is None else {"Content-Type": kind})
            answer = connection.getresponse()
            told = answer.getheader("retry-after") or answer.getheader("content-type") or ""
            return answer.status, told, answer.read()
        finally:
            connection.close()

    def memory(self) -> float:
        """Return the MiB that it has in memory; where the system does not tell, not a number."""
        file = Path(f"/proc/{self._process.pid}/status")
        found = re.search(r"VmRSS:\s+(\d+) kB", file.read_text()) if file.exists() else None
        return float(found.group(1)) / 1024 if found else float("nan")

    def stop(self) -> None:
        """End it as Ctrl-C does."""
        self._process.terminate()
        self._process.wait(60)


@contextmanager
def served(model: str | None) -> Iterator[tuple[Server, Synthesizer]]:
    """Serve a model, and load it here as well."""
    with tempfile.TemporaryDirectory() as folder:
        source = model or tiny_model(Path(folder) / "model")
        server = Server(source, Path(folder) / "log")
        try:
            _, _, told = server.ask("GET", "/api/model")
            yield server, Synthesizer.load(source, device="cpu", optimize=json.loads(told)["drawing"])
            if "Traceback" in server.output():
                sys.exit(f"the painter printed a fault: {server.output()[-2000:]}")
        finally:
            server.stop()


def png(ids: np.ndarray) -> bytes:
    """Return ids as PNG."""
    out = io.BytesIO()
    Image.fromarray(ids).save(out, format="PNG")
    return out.getvalue()


# --- requests of every kind -----------------------------------------------------------------------------------------


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Draw a label map or photo with some of its bytes changed, left out or repeated; mostly with none."""
    picture = np.full(draw(st.sampled_from([(16, 16), (9, 7), (40, 30, 3)])), draw(st.integers(0, 15)), np.uint8)
    out = io.BytesIO()
    Image.fromarray(picture).save(
        out, format=draw(st.sampled_from(["PNG", "PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"]))
    )
    body = bytearray(out.getvalue())
    for _ in range(draw(st.sampled_from([0, 0, 1, 3]))):
        place = draw(st.integers(0, len(body) - 1))
        body[place : place + draw(st.integers(0, 5))] = draw(st.binary(max_size=5))
    return bytes(body)


NAMES = st.sampled_from(["seed", "seed", "samples", "form", "given", "request", "mix", "seed_b", "sead", "\0"])
VALUES = (
    st.integers(0, 20).map(str) | st.sampled_from(["ids", "file", "0.5", "tab0tab0"]) | st.floats().map(str) | st.text()
)
PATHS = st.sampled_from(
    ["/api/synthesize"] * 4 + ["/api/labels"] * 2 + ["/api/random", "/api/model", "/api/examples", "/"]
)
METHODS = st.sampled_from(["POST"] * 16 + ["GET", "PUT", "DELETE", "OPTIONS"])
SAID = st.sampled_from(["image/png"] * 4 + [*KINDS, "image/svg+xml", "application/json", ""])


def check(status: int, content: bytes, counts: Counter[int]) -> None:
    """Count an answer; end where it is the server's fault or no JSON of one sentence."""
    counts[status] += 1
    if status not in ALLOWED:
        sys.exit(f"an answer with status {status}: {content[:300]!r}")
    if status >= 400 and not (set(found := json.loads(content)) == {"error"} and found["error"].strip()):
        sys.exit(f"an error that is no sentence: {content[:300]!r}")


def fuzz(server: Server, wanted: int) -> dict[str, Any]:
    """Send requests of every kind until there were enough."""
    for kind in KINDS:
        schemathesis.openapi.media_type(kind, bodies())
    described, other = Counter[int](), Counter[int]()
    operations = [found.ok() for found in schemathesis.openapi.from_dict(describe()).get_all_operations()]
    modes = [(item, mode) for item in operations for mode in schemathesis.GenerationMode]
    modes = [(item, mode) for item, mode in modes if mode.is_positive or item.query or "{" in item.path]
    begun = time.perf_counter()

    def rules(count: int) -> Any:
        return settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))

    def ask_as_described(operation: Any, mode: Any) -> None:
        @rules(max(1, wanted // 2 // len(modes)))
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: schemathesis.Case) -> None:
            # Which parameters go together, and what bytes are a picture, the description says in words alone.
            checks = [schemathesis.checks.positive_data_acceptance]
            answer = case.call_and_validate(base_url=f"http://127.0.0.1:{server.port}", excluded_checks=checks)
            check(answer.status_code, answer.content, described)

        ask()

    @given(METHODS, PATHS, st.dictionaries(NAMES, VALUES, max_size=3), bodies() | st.binary(max_size=99), SAID)
    def ask_anything(method: str, path: str, query: dict[str, str], body: bytes, kind: str) -> None:
        status, _, content = server.ask(method, f"{path}?{urlencode(query, errors='replace')}", body, kind)
        check(status, content, other)

    for operation, mode in modes:
        ask_as_described(operation, mode)
    while (left := wanted - described.total() - other.total()) > 0:
        rules(left)(ask_anything)()
    return {
        "requests": described.total() + other.total(),
        "seconds": time.perf_counter() - begun,
        "statuses_as_described": {str(status): count for status, count in sorted(described.items())},
        "statuses_of_anything": {str(status): count for status, count in sorted(other.items())},
    }


# --- many clients ---------------------------------------------------------------------------------------------------


class Load:
    """Clients that draw until the time is over.

    Args:
        server: what they ask.
        synthesizer: the same model, here.
        seconds: for how long.
    """

    def __init__(self, server: Server, synthesizer: Synthesizer, seconds: float) -> None:
        self.server, self.seconds = server, seconds
        self.statuses: Counter[int] = Counter()
        self.times: list[float] = []
        self.wrong: list[str] = []
        self._lock = threading.Lock()
        self._asked: list[tuple[str, bytes, bytes]] = []
        for index in range(8):
            _, ids = draw_scene(index, 0, synthesizer.size)
            for seed in (1, 2):
                expected = picture_png(synthesizer(ids, seed=seed)[0])
                self._asked.append((f"/api/synthesize?seed={seed}", png(ids.numpy().astype(np.uint8)), expected))

    def run(self, clients: int) -> list[float]:
        """Let them draw; return the server's memory each second."""
        threads = [threading.Thread(target=self._draw, args=(number,), daemon=True) for number in range(clients)]
        for thread in threads:
            thread.start()
        memory = []
        end = time.monotonic() + self.seconds
        while time.monotonic() < end and not self.wrong:
            time.sleep(1)
            memory.append(self.server.memory())
        for thread in threads:
            thread.join(120)
        if self.wrong:
            sys.exit(self.wrong[0])
        return memory

    def _draw(self, number: int) -> None:
        rng = random.Random(number)
        end = time.monotonic() + self.seconds
        while time.monotonic() < end and not self.wrong:
            path, body, expected = rng.choice(self._asked)
            begun = time.perf_counter()
            try:
                status, told, content = self.server.ask("POST", path, body)
            except OSError as error:
                self.wrong.append(f"no answer: {error}")
                return
            right = content == expected if status == 200 else status == 429 and told.isdecimal() and int(told) >= 1
            with self._lock:
                self.statuses[status] += 1
                if status == 200:
                    self.times.append(time.perf_counter() - begun)
                if not right:
                    self.wrong.append(f"a wrong answer with status {status}: {content[:200]!r}")
            if status == 429:
                time.sleep(PAUSE)


# --- both -----------------------------------------------------------------------------------------------------------


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Do both parts.

    Raises:
        SystemExit: an answer was wrong, or memory grew.
    """
    with served(args.model) as (server, synthesizer):
        load = Load(server, synthesizer, args.seconds)
        for _ in range(20):
            server.ask("POST", "/api/random?seed=1")
        started = server.memory()
        fuzzed = fuzz(server, args.requests)
        fuzzed["memory_mib"] = {"start": started, "end": server.memory()}
        print(f"{fuzzed['requests']} requests of every kind in {fuzzed['seconds']:.0f} s, none the server's fault")
        before = server.memory()
        memory = load.run(args.clients)
        after = server.memory()
    if after > 1.1 * before:
        sys.exit(f"memory grew from {before:.0f} to {after:.0f} MiB while clients drew")
    times = sorted(load.times)
    return {
        "model": args.model or f"tiny, untrained, {SIDE}x{SIDE}",
        "fuzz": fuzzed,
        "load": {
            "clients": args.clients,
            "seconds": args.seconds,
            "statuses": {str(status): count for status, count in sorted(load.statuses.items())},
            "pictures_per_second": len(times) / args.seconds,
            "seconds_to_picture": {"median": statistics.median(times), "worst": times[-1]},
            "memory_mib": {"start": before, "end": after, "most": max([before, after, *memory])},
        },
    }


def main() -> None:
    """Measure, print, and write where asked."""
    args = arguments()
    found = measure(args)
    load, memory = found["load"], found["load"]["memory_mib"]
    print(f"{load['clients']} clients for {load['seconds']:g} s: {load['statuses']}, every answer right or 429")
    print(
        f"{load['pictures_per_second']:.1f} pictures a second; from request to picture "
        f"{load['seconds_to_picture']['median']:.2f} s, at worst {load['seconds_to_picture']['worst']:.2f} s"
    )
    print(
        f"memory {memory['start']:.0f} MiB at the start, {memory['end']:.0f} at the end, {memory['most']:.0f} at most"
    )
    if args.out:
        record = {
            "command": " ".join(["python", *sys.argv]),
            "machine": f"{processor()}, {torch.get_num_threads()} threads",
            "versions": {
                "lab2pix": lab2pix.__version__,
                "torch": torch.__version__,
                "schemathesis": schemathesis.__version__,
            },
            **found,
        }
        write_json(args.out, record)


if __name__ == "__main__":
    main()

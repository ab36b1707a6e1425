"""Fixtures: a dataset of four tiny pairs, a one-second training configuration and run, a browser, and servers."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from lab2pix.recipes import load_config

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SIZE = 64
TINY = (
    "generator.width=2",
    "generator.modulation_hidden=4",
    "generator.global_encoder.width=2",
    "generator.global_encoder.max_width=4",
    "discriminator.width=2",
    "discriminator.max_width=4",
    "data.scenes.train_count=4",
    "data.scenes.val_count=2",
    "train.batch_size=2",
    "train.steps=2",
    "monitor.samples=2",
    "monitor.tensorboard=false",
)


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """Overrides of `v2-small` that make it as small and short as it gets."""
    return TINY


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps on scenes; nobody may change it."""
    from lab2pix.training.loop import train

    folder = tmp_path_factory.mktemp("runs") / "scenes"
    train(load_config("v2-small", TINY), folder, device="cpu")
    return folder


def write_pair(root: Path, name: str, *, split: str = "train", size: int = SIZE, label_size: int | None = None) -> None:
    """Write a photo of noise and a label map of two classes that depend on the name."""
    rng = np.random.default_rng(len(name))
    for kind in ("images", "labels"):
        (root / kind / split).mkdir(parents=True, exist_ok=True)
    photo = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(photo).save(root / "images" / split / f"{name}.png")
    label = np.zeros((label_size or size, label_size or size), dtype=np.uint8)
    label[SIZE // 2 :] = ord(name[0]) % 6
    Image.fromarray(label).save(root / "labels" / split / f"{name}.png")


@pytest.fixture
def folder_data(tmp_path: Path) -> Path:
    """Four good pairs in the format `folder`, two of them held out."""
    root = tmp_path / "data"
    for name, split in (("a", "train"), ("b", "train"), ("c", "val"), ("d", "val")):
        write_pair(root, name, split=split)
    return root


# --- pages in a browser -------------------------------------------------------------------------------------------

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's Chromium without a window, for one module: Playwright keeps an event loop running meanwhile."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
    program = next((found for name in CHROMIUM_NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no browser: install one of {', '.join(CHROMIUM_NAMES)}")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, headless=True, args=list(CHROMIUM_FLAGS))
        yield started
        started.close()


class Server:
    """A `lab2pix` command that serves a page, in a process of its own.

    Attributes:
        address: of the page.
        process: the command.
    """

    def __init__(self, words: Sequence[object], log: Path) -> None:
        self._log = log.open("a+", encoding="utf-8")
        command = [sys.executable, "-m", "lab2pix", *map(str, words), "--no-browser"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT, env=environment)
        self.address = self._wait()

    def _wait(self) -> str:
        end = time.monotonic() + 60
        while time.monotonic() < end and self.process.poll() is None:
            found = re.search(r"http://\S+/", self.output())
            if found:
                return found.group()
            time.sleep(0.05)
        self.stop()
        raise AssertionError(f"the page is not served: {self.output()}")

    def output(self) -> str:
        """What the command has printed."""
        return Path(self._log.name).read_text(encoding="utf-8")

    def stop(self, number: int = signal.SIGINT) -> int:
        """Send a signal, and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait(20)


def serve_in(folder: Path) -> Iterator[Callable[..., Server]]:
    """Give what starts servers, with their logs in a folder, and stop them in the end."""
    started: list[Server] = []

    def call(*words: object) -> Server:
        started.append(Server(words, folder / f"server-{len(started)}.log"))
        return started[-1]

    yield call
    for server in started:
        server.stop()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts `lab2pix WORDS --no-browser`, waits until it prints an address, and stops it after the test."""
    yield from serve_in(tmp_path)


@pytest.fixture(scope="module")
def serve_for_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """As `serve`, for a server that all tests of a module share."""
    yield from serve_in(tmp_path_factory.mktemp("servers"))

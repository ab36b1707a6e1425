"""Fixtures: toys for the training loop, and processes that can be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import toy


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let `train` train the toy; call it to use other data."""
    for module, name in toy.PATCHED:
        monkeypatch.setattr(module, name, getattr(module, name))
    toy.use_toys()
    return toy.use_toys


class Server:
    """Forks training processes on request."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.toy"],
            cwd=Path(toy.__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def start(self, *jobs: dict[str, Any]) -> list[int]:
        """Start one process per job and return their ids."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(jobs) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def wait(self) -> list[int]:
        """Return the exit codes of the processes started last; negative for a signal that killed one."""
        assert self.process.stdout
        return json.loads(self.process.stdout.readline())

    def end(self) -> None:
        """Ask the process to end; closing the pipe is not enough while a forked data loader holds a copy of it."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.close()

    def run(self, *jobs: dict[str, Any]) -> list[int]:
        """Start and wait."""
        self.start(*jobs)
        return self.wait()


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A process that has torch imported and forks a training per job."""
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork")
    server = Server()
    yield server
    server.end()
    server.process.wait(20)

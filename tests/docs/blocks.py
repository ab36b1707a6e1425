"""Fenced blocks of a page, and how they run: shell commands in bash's words, Python in one namespace per page."""

from __future__ import annotations

import os
import queue
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lab2pix import cli
from lab2pix.cli import paint
from lab2pix.web import serving

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"README": ROOT / "README.md", **{file.stem: file for file in sorted((ROOT / "docs/guide").glob("*.md"))}}
_FENCE = re.compile(r"^```(\S*).*?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language and its text."""

    language: str
    text: str

    @property
    def parts(self) -> list[str]:
        """What runs, one after the other: the commands of a console block, or the whole text of a Python block.

        A command is a line after `$ ` with its continuation lines; other lines of a console block are its output.
        """
        if self.language == "console":
            lines = self.text.replace("\\\n", " ").splitlines()
            return [re.sub(r"\s+", " ", line[2:]) for line in lines if line.startswith("$ ")]
        return [self.text] if self.language == "python" else []


def blocks(page: str) -> list[Block]:
    """Return the blocks of a page, in order."""
    return [Block(*found) for found in _FENCE.findall(PAGES[page].read_text(encoding="utf-8"))]


def split_words(command: str) -> list[str]:
    """Return the words that bash makes of a command.

    Patterns that match no file are errors, as in zsh: brackets need quotes.
    """
    script = f"printf '%s\\0' {command}"
    done = subprocess.run(["bash", "-O", "failglob", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"$ {command}\n{done.stderr}"
    return done.stdout.split("\0")[:-1]


def free_port() -> str:
    """Return a port that no server uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@dataclass
class Runner:
    """Runs the commands of one page in the current folder; servers run until `stop` is called.

    Attributes:
        change: replaces words of commands that make prints.
        patch: undoes what servers need.
        names: namespace of the Python blocks.
    """

    change: Callable[[str], str]
    patch: pytest.MonkeyPatch
    names: dict[str, Any]
    _servers: list[tuple[serving.Server, threading.Thread]] = field(default_factory=list)

    def python(self, text: str, file: str) -> None:
        """Run a Python block."""
        exec(compile(text, file, "exec", dont_inherit=True), self.names)

    def command(self, command: str, status: int = 0) -> None:
        """Run one command as a shell would, and check its exit status; lab2pix itself runs in this process."""
        program, *words = split_words(command)
        if program == "make":
            # What make would do in the clone, with the program installed.
            options = ["-n", "-C", str(ROOT), "--no-print-directory", "-o", ".venv/.installed"]
            for line in self._output(["make", *options, *words]).splitlines():
                self.command(self.change(line.replace(".venv/bin/", "")))
        elif program == "lab2pix" and (words[0] == "paint" or words[:2] == ["study", "serve"]):
            self._serve(words)
        elif program == "lab2pix":
            with pytest.raises(SystemExit) as exit_info:
                cli.main(words)
            assert exit_info.value.code == status, f"$ {command}"
        elif program in ("torchrun", "python"):
            module = ["-m", "torch.distributed.run"] if program == "torchrun" else []
            self._output([sys.executable, *module, *words])
        else:
            assert program == "curl", f"no test runs {program!r}: $ {command}"
            self._output([program, "--fail", "--silent", "--show-error", *words])

    @staticmethod
    def _output(words: list[str]) -> str:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=240, env=environment | {"OMP_NUM_THREADS": "1"}, check=False
        )
        assert done.returncode == 0, f"$ {' '.join(words)}\n{done.stdout}{done.stderr}"
        return done.stdout

    # --- servers --------------------------------------------------------------------------------------------------

    def _serve(self, words: list[str]) -> None:
        """Run a server in a thread, and return when it has opened the browser and answers."""
        self.stop()
        opened: queue.SimpleQueue[object] = queue.SimpleQueue()

        def work() -> None:
            try:
                cli.main(words)
            except SystemExit as error:
                opened.put(error.code)

        def run(app: Any, listening: Any, on_shutdown: Callable[[], None] = lambda: None) -> None:
            server = serving.Server(app, on_shutdown)
            self._servers.append((server, thread))
            server.run(sockets=[listening])

        thread = threading.Thread(target=work, daemon=True)
        self.patch.setattr(serving, "open_browser_soon", opened.put)
        self.patch.setattr(serving, "run", run)
        self.patch.setattr(paint, "exit_immediately", lambda: None)
        thread.start()
        address = opened.get(timeout=60)
        assert str(address).startswith("http://"), f"lab2pix {' '.join(words)}: exit status {address}"
        while not self._servers or not self._servers[-1][0].started:
            assert thread.is_alive()
            thread.join(0.01)

    def stop(self) -> None:
        """Stop the servers."""
        while self._servers:
            server, thread = self._servers.pop()
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()

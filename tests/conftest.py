"""Fixtures for all tests: golden vectors and data samples, if available."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from lab2pix.utils.threads import configure_openmp

configure_openmp()  # before torch is loaded

import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

from lab2pix import cli  # noqa: E402

_ROOT = Path(__file__).resolve().parent.parent


settings.register_profile("lab2pix", deadline=None)  # time depends on what else the machine does
settings.load_profile("lab2pix")


def pytest_configure() -> None:
    """Keep torch to one thread: the tests run side by side, and sums come out the same everywhere."""
    torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their folder and by the fixtures they use; the other marks are written at the tests."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        for mark, applies in (
            ("slow", "e2e" in item.path.parts),
            ("xslow", "benchmarks" in item.path.parts),
            ("golden", "golden_root" in fixtures),
            ("browser", "browser" in fixtures),
        ):
            if applies:
                item.add_marker(mark)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests measured, from whichever process."""
    for report in terminalreporter.getreports("passed"):
        for name, value in getattr(report, "user_properties", ()):
            if name == "measured":
                terminalreporter.write_line(f"measured: {value}")


def _folder(variable: str, default: str) -> Path:
    folder = Path(os.environ.get(variable) or _ROOT.parent / "shared" / default)
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}; set {variable} to run this test")
    return folder


@pytest.fixture(autouse=True)
def _fresh_opener() -> None:
    """Let urllib read its proxies anew: an opener that was made under one test's dead proxy stays for all others."""
    urllib.request._opener = None  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def golden_root() -> Path:
    """Folder of the golden vectors (`LAB2PIX_GOLDEN`)."""
    return _folder("LAB2PIX_GOLDEN", "golden")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the dataset samples (`LAB2PIX_DATA`)."""
    return _folder("LAB2PIX_DATA", "data")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line in this process; gives exit code, output, errors."""

    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            cli.main([str(word) for word in words])
        output = capsys.readouterr()
        return int(exit_info.value.code or 0), output.out, output.err

    return call

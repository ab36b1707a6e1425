"""The wheel: built from the repository, it installs and generates without a clone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).resolve().parents[2]
GENERATE = (
    "import torch, lab2pix; print(lab2pix.__file__); "
    "print(lab2pix.Synthesizer('scenes')(torch.zeros(64, 64, dtype=torch.int64)).tensor.float().std() > 1)"
)


@pytest.mark.xslow
@pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="this is not a clone")
def test_wheel_of_the_repository_generates(tmp_path: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():  # a removed file is listed until its removal is committed
            (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / "clone" / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    built = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(tmp_path / "clone")]
    subprocess.run(built, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    assert wheel.name in (ROOT / "docs/guide/quickstart.md").read_text(encoding="utf-8")
    with ZipFile(wheel) as content:
        assert not [name for name in content.namelist() if "landscapes" in name and name.endswith(".safetensors")]
        [metadata] = [name for name in content.namelist() if name.endswith("METADATA")]
        text = content.read(metadata).decode()
    used = set(re.findall(r"lab2pix[^\s']*\[([a-z0-9,]+)\]", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert {name for extras in used for name in extras.split(",")} <= set(
        re.findall(r"(?m)^Provides-Extra: (.+)$", text)
    )
    target = tmp_path / "installed"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True, capture_output=True)
    ran = subprocess.run(
        [sys.executable, "-c", GENERATE],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(target)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ran.stdout.split() == [str(target / "lab2pix" / "__init__.py"), "tensor(True)"]

"""Stand-in for the Hugging Face hub: repositories are folders."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from lab2pix.inference import weights


def use_folders_as_hub(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Push to `folder/OWNER/NAME` and load from there."""

    class FakeApi:
        def __init__(self, *_: object, **__: object) -> None: ...

        def create_repo(self, repo_id: str, **_: object) -> SimpleNamespace:
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, *, repo_id: str, folder_path: Path, **_: object) -> str:
            target = folder / repo_id
            target.mkdir(parents=True)
            for file in Path(folder_path).iterdir():
                (target / file.name).write_bytes(file.read_bytes())
            return f"https://huggingface.co/{repo_id}/commit/1"

    def download(name: str, **_: object) -> str:
        if not (folder / name).is_dir():
            raise OSError("404 Client Error")
        return str(folder / name)

    patch.setattr("huggingface_hub.hub_mixin.HfApi", FakeApi)
    patch.setattr(weights, "snapshot_download", download)

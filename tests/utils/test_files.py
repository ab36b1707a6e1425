"""Atomic writes: complete or unchanged files, and no temporary files left."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab2pix.utils.files import atomic_write


def test_atomic_write_replaces_files_together(tmp_path: Path) -> None:
    one, other = tmp_path / "new" / "one.txt", tmp_path / "new" / "other.txt"
    with atomic_write(one, other) as unfinished:
        for file in unfinished:
            file.write_text("1")
            assert file.suffix == ".txt"
        assert not one.exists()
    assert sorted(file.name for file in one.parent.iterdir()) == ["one.txt", "other.txt"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_atomic_write_keeps_the_old_file_on_an_error(error: BaseException, tmp_path: Path) -> None:
    file = tmp_path / "one.txt"
    file.write_text("old")
    with pytest.raises(type(error)), atomic_write(file) as [unfinished]:
        unfinished.write_text("new")
        raise error
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("one.txt", "old")]

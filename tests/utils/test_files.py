"""Atomic writes: complete or unchanged files, and no temporary files left."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from PIL import Image

from lab2pix.utils.files import atomic_write, expand_user, lock_file, write_png


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


def test_temporary_names_are_short(tmp_path: Path) -> None:
    file = tmp_path / f"{'x' * 251}.png"
    with atomic_write(file) as [unfinished]:
        unfinished.write_text("1")
        assert len(unfinished.name) < 40 and unfinished.suffix == ".png"
    assert [entry.name for entry in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("folders_only", [True, False])
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF])
def test_file_systems_that_cannot_flush_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, folders_only: bool
) -> None:
    def fsync(descriptor: int) -> None:
        if not folders_only or stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic_write(tmp_path / "a.txt") as [unfinished]:
        unfinished.write_text("1")
    assert (tmp_path / "a.txt").read_text() == "1"


@pytest.mark.slow
def test_a_failing_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="Input/output error"), atomic_write(tmp_path / "a.txt") as [unfinished]:
        unfinished.write_text("1")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "locked"),
    [
        (errno.ENOLCK, True),
        (errno.EOPNOTSUPP, True),
        (errno.ENOSYS, True),
        (errno.EAGAIN, False),
        (errno.EACCES, False),
    ],
)
def test_file_systems_without_locks_are_passed_over(tmp_path: Path, number: int, locked: bool) -> None:
    def lock(file: object, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    with (tmp_path / "lock").open("w") as file:
        assert lock_file(file, lock) == locked


def test_the_home_folder_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert expand_user("~/x.yaml") == Path("/home/ada/x.yaml")
    assert expand_user(Path("~")) == Path("/home/ada")
    assert expand_user("a/~/b") == Path("a/~/b")
    assert expand_user("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")


def test_png_is_complete_or_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "new" / "a.png"
    write_png(file, Image.new("RGB", (3, 2), (1, 2, 3)))
    before = file.read_bytes()

    class Broken:
        @staticmethod
        def save(path: Path, **_: object) -> None:
            path.write_bytes(b"half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write_png(file, Broken())  # type: ignore[arg-type]
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["a.png"]

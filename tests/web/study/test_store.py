"""Answer storage: durability, crash recovery, and each answer counted once."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab2pix.errors import DataError, OutputError
from lab2pix.web.study import store as module
from lab2pix.web.study.samples import Study
from lab2pix.web.study.store import FILE_NAME, AnswerStore, read_answers

BEST_FIRST = ["spade", "lab2pix-v2", "no norm"]


@pytest.fixture
def samples(study: Study) -> list[str]:
    """The names of Ada's samples."""
    return [task.sample.name for task in study.tasks("Ada")]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_no_obstacle(
    study_folder: Path, study: Study, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with AnswerStore(study_folder, study) as opened:
        assert opened.answers.latest == {}


def lines(folder: Path) -> list[bytes]:
    return (folder / FILE_NAME).read_bytes().splitlines()


def ids(folder: Path, study: Study) -> list[str]:
    return [answer.id for answer in read_answers(folder, study).latest.values()]


def test_answer_is_stored_as_a_line(store: AnswerStore, study_folder: Path, samples: list[str]) -> None:
    assert store.append("id-00001", "Ada", samples[0], BEST_FIRST, 3.14159) == "stored"
    (line,) = lines(study_folder)
    assert line.startswith(b'{"id":"id-00001"')
    kept = json.loads(line)
    assert kept.pop("time").endswith("+00:00")
    assert kept == {
        "id": "id-00001",
        "participant": "Ada",
        "sample": samples[0],
        "ranking": BEST_FIRST,
        "seconds": 3.14,
    }


def test_answers_are_read_back(store: AnswerStore, study_folder: Path, study: Study, samples: list[str]) -> None:
    store.append("id-00001", "Ada", samples[0], BEST_FIRST, 1)
    store.append("id-00002", "ADA", samples[1], BEST_FIRST[::-1], 1)
    answers = read_answers(study_folder, study)
    assert answers.names == {"ada": "Ada"}
    assert {name: one.ranking for name, one in answers.of("ada").items()} == {
        samples[0]: BEST_FIRST,
        samples[1]: BEST_FIRST[::-1],
    }
    assert store.done("aDa").keys() == set(samples[:2])
    assert store.done("Bo") == {}


def test_repeated_answer_is_stored_once(
    store: AnswerStore, study_folder: Path, study: Study, samples: list[str]
) -> None:
    assert store.append("id-00001", "Ada", samples[0], BEST_FIRST, 1) == "stored"
    assert store.append("id-00001", "Ada", samples[0], BEST_FIRST, 2) == "already stored"
    assert store.append("id-00002", "Ada", samples[0], BEST_FIRST, 3) == "already stored"  # changes nothing
    assert len(lines(study_folder)) == 1
    assert read_answers(study_folder, study).replaced == 0


def test_last_answer_counts(store: AnswerStore, study_folder: Path, study: Study, samples: list[str]) -> None:
    store.append("id-00001", "Ada", samples[0], BEST_FIRST, 1)
    store.append("id-00002", "Ada", samples[0], BEST_FIRST[::-1], 1)
    # The first request arrives again late: it must not replace the second.
    assert store.append("id-00001", "Ada", samples[0], BEST_FIRST, 1) == "already stored"
    answers = read_answers(study_folder, study)
    assert [one.ranking for one in answers.latest.values()] == [BEST_FIRST[::-1]]
    assert (answers.replaced, answers.repeated, len(lines(study_folder))) == (1, 0, 2)


def test_id_of_another_answer_is_refused(store: AnswerStore, study_folder: Path, samples: list[str]) -> None:
    store.append("id-00001", "Ada", samples[0], BEST_FIRST, 1)
    for sample, ranking in ((samples[1], BEST_FIRST), (samples[0], BEST_FIRST[::-1])):
        with pytest.raises(DataError, match="the id of another one"):
            store.append("id-00001", "Ada", sample, ranking, 1)
    assert len(lines(study_folder)) == 1


def test_concurrent_threads_lose_no_answer(store: AnswerStore, study_folder: Path, study: Study) -> None:
    wanted = [(person, task.sample.name) for person in "abcdefgh" for task in study.tasks(person)]
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(
            pool.map(lambda one: store.append(f"id-{one[0]}-{abs(hash(one))}", *one, BEST_FIRST, 1), wanted * 3)
        )
    assert outcomes.count("stored") == len(wanted) == len(lines(study_folder)) == 32
    assert read_answers(study_folder, study).latest.keys() == set(wanted)


# --- crashes and full disks -----------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_truncated_line_loses_only_that_answer(
    study_folder: Path, study: Study, samples: list[str], data: st.DataObject
) -> None:
    file = study_folder / FILE_NAME
    file.unlink(missing_ok=True)
    with AnswerStore(study_folder, study) as store:
        for number, sample in enumerate(samples[:3], start=1):
            store.append(f"id-0000{number}", "Ada", sample, BEST_FIRST, 1)
    whole = file.read_bytes()
    last = whole.rindex(b'{"id"')
    cut = data.draw(st.integers(last, len(whole) - 1))
    file.write_bytes(whole[:cut] + b"\0" * data.draw(st.integers(0, 3)))
    complete = cut == len(whole) - 1  # only the end of the line is missing
    with AnswerStore(study_folder, study) as store:
        found = [one.id for one in store.answers.latest.values()]
        assert found == ["id-00001", "id-00002", "id-00003"][: 3 if complete else 2]
        # The page sends the answer again, because it got no response.
        store.append("id-00003", "Ada", samples[2], BEST_FIRST, 1)
        store.append("id-00004", "Ada", samples[3], BEST_FIRST, 1)
    assert ids(study_folder, study) == ["id-00001", "id-00002", "id-00003", "id-00004"]
    assert file.read_bytes().startswith(whole[:last])


@pytest.mark.slow
def test_killed_process_keeps_acknowledged_answers(study_folder: Path, study: Study, samples: list[str]) -> None:
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from lab2pix.web.study.samples import Study\n"
        "from lab2pix.web.study.store import AnswerStore\n"
        "folder = Path(sys.argv[1])\n"
        "store = AnswerStore(folder, Study.load(folder))\n"
        f"for number, sample in enumerate({samples[:3]!r}):\n"
        f"    print(store.append(f'id-0000{{number}}', 'Ada', sample, {BEST_FIRST!r}, 1), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, study_folder], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode < 0, done.stderr
    assert done.stdout.split("\n")[:3] == ["stored"] * 3
    assert len(ids(study_folder, study)) == 3
    with AnswerStore(study_folder, study) as store:  # the dead process holds no lock
        assert len(store.answers.latest) == 3


class Disk:
    """File that accepts so many bytes and then is full."""

    def __init__(self, real: object, room: int) -> None:
        self.real, self.room = real, room

    def write(self, data: memoryview) -> int:
        if self.room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = int(self.real.write(bytes(data[: min(self.room, 7)])))  # type: ignore[attr-defined]
        self.room -= taken
        return taken

    def __getattr__(self, name: str) -> object:
        return getattr(self.real, name)


def test_full_disk_leaves_the_file_unchanged(
    store: AnswerStore, study_folder: Path, study: Study, samples: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.append("id-00001", "Ada", samples[0], BEST_FIRST, 1)
    before = (study_folder / FILE_NAME).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(store, "_file", Disk(store._file, room=40))
        with pytest.raises(OutputError, match="free space"):
            store.append("id-00002", "Ada", samples[1], BEST_FIRST, 1)
    assert (study_folder / FILE_NAME).read_bytes() == before
    assert store.append("id-00002", "Ada", samples[1], BEST_FIRST, 1) == "stored"  # the failed answer does not count
    assert ids(study_folder, study) == ["id-00001", "id-00002"]


def test_partial_line_on_a_full_disk_does_not_damage_later_ones(
    store: AnswerStore, study_folder: Path, study: Study, samples: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(size: int) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        disk = Disk(store._file, room=40)
        disk.truncate = refuse  # type: ignore[attr-defined]
        patch.setattr(store, "_file", disk)
        with pytest.raises(OutputError):
            store.append("id-00001", "Ada", samples[0], BEST_FIRST, 1)
    assert len(lines(study_folder)[0]) > 0
    store.append("id-00002", "Ada", samples[1], BEST_FIRST, 1)
    answers = read_answers(study_folder, study)
    assert ([one.id for one in answers.latest.values()], answers.damaged) == (["id-00002"], [1])


def test_answer_is_synced_to_the_disk(
    store: AnswerStore, study_folder: Path, samples: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    forced: list[bytes] = []
    monkeypatch.setattr(module.os, "fsync", lambda _: forced.append((study_folder / FILE_NAME).read_bytes()))
    store.append("id-00001", "Ada", samples[0], BEST_FIRST, 1)
    assert len(forced) == 1
    assert json.loads(forced[0])["id"] == "id-00001"


# --- two at one file ------------------------------------------------------------------------------------------------


def test_second_store_in_one_process_is_refused(store: AnswerStore, study_folder: Path, study: Study) -> None:
    with pytest.raises(OutputError, match="already being served"):
        AnswerStore(study_folder, study)


def test_second_process_is_refused(study_folder: Path, study: Study, samples: list[str]) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from lab2pix.web.study.samples import Study\n"
        "from lab2pix.web.study.store import AnswerStore\n"
        "folder = Path(sys.argv[1])\n"
        "with AnswerStore(folder, Study.load(folder)):\n"
        "    print('open', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, study_folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdin is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(OutputError, match="already being served"):
            AnswerStore(study_folder, study)
        assert read_answers(study_folder, study).latest == {}  # reading needs no lock
        other.stdin.close()
    with AnswerStore(study_folder, study) as store:
        assert store.append("id-00001", "Ada", samples[0], BEST_FIRST, 1) == "stored"


# --- a file that somebody edited ------------------------------------------------------------------------------------


def written(folder: Path, *parts: bytes | dict[str, object]) -> None:
    whole = [part if isinstance(part, bytes) else json.dumps(part, separators=(",", ":")).encode() for part in parts]
    (folder / FILE_NAME).write_bytes(b"\n".join(whole) + b"\n")


@pytest.fixture
def good(samples: list[str]) -> dict[str, object]:
    return {
        "id": "id-00001",
        "participant": "Ada",
        "sample": samples[0],
        "ranking": BEST_FIRST,
        "time": "2026-01-01T00:00:00.000+00:00",
        "seconds": 1.0,
    }


def test_repeated_line_counts_once(study_folder: Path, study: Study, good: dict[str, object]) -> None:
    written(study_folder, good, b"", good)
    answers = read_answers(study_folder, study)
    assert (len(answers.latest), answers.repeated, answers.replaced) == (1, 1, 0)


def test_line_with_the_id_of_another_is_named(study_folder: Path, study: Study, good: dict[str, object]) -> None:
    written(study_folder, good, {**good, "ranking": BEST_FIRST[::-1]})
    with pytest.raises(DataError, match=r"Line 2 of .* has the id of another answer"):
        read_answers(study_folder, study)


@pytest.mark.slow
@pytest.mark.parametrize(
    "line", [b"hello", b"{'id': 1}", b'{"id":"id-00002",}', b"\xff\xfe", b"[" * 100_000, b'{"id":"x"}{"id":"y"}']
)
def test_damaged_line_is_named(study_folder: Path, study: Study, good: dict[str, object], line: bytes) -> None:
    written(study_folder, good, line)
    with pytest.raises(DataError, match=r"Line 2 of .*answers\.jsonl is damaged"):
        read_answers(study_folder, study)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"seconds": -1}, "seconds"),
        ({"seconds": float("nan")}, "seconds"),
        ({"id": "short"}, "id"),
        ({"extra": 1}, "extra"),
        ({"ranking": ["spade"]}, "ranks spade, but the study's methods are"),
        ({"ranking": ["spade", "spade", "no norm"]}, "ranks spade, spade, no norm"),
        ({"sample": "zebra"}, "'zebra', which this study does not show to Ada"),
        ({"participant": ""}, "invalid participant"),
    ],
)
def test_line_that_does_not_fit_the_study_is_named(
    study_folder: Path, study: Study, good: dict[str, object], changes: dict[str, object], part: str
) -> None:
    written(study_folder, {**good, **changes})
    with pytest.raises(DataError) as error:
        read_answers(study_folder, study)
    assert part in str(error.value)
    assert "Line 1 of" in str(error.value)

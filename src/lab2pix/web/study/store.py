"""Append-only file of a study's answers that survives crashes and counts each answer once.

`answers.jsonl` has one answer per line.
A corrected answer is a new line; the last line of a participant and sample counts.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lab2pix.errors import DataError, OutputError
from lab2pix.utils.files import flush_to_disk, lock_file, sync_folder
from lab2pix.web.study.samples import Study, participant_key, participant_name

FILE_NAME = "answers.jsonl"
MAX_SECONDS = 1e6

_LINE_START = b'{"id":"'
_PADDING = b"\0 \r"
"""Meaningless bytes at the end of a line: after a power failure a file may end in zeros."""


class Answer(BaseModel):
    """One ranking, a line of the file.

    Attributes:
        id: chosen by the page for this ranking, so that a repeated request is stored once.
        participant: name of the participant.
        sample: name of the sample.
        ranking: methods, best first.
        time: time of arrival in UTC.
        seconds: how long the participant looked at the sample.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    id: Annotated[str, Field(pattern=r"^[0-9A-Za-z-]{8,64}$")]
    participant: str
    sample: str
    ranking: list[str]
    time: str
    seconds: Annotated[float, Field(ge=0, le=MAX_SECONDS)]

    @property
    def key(self) -> tuple[str, str]:
        """Participant's key and sample's name; a later answer with the same key replaces this one."""
        return participant_key(self.participant), self.sample


@dataclass
class Answers:
    """Contents of `answers.jsonl`.

    Attributes:
        latest: answers that count, by participant's key and sample's name.
        names: each participant's name as first given, by key, in the order of their first answers.
        replaced: number of answers that were corrected later.
        repeated: number of lines that repeat an id.
        damaged: numbers of truncated lines, from 1.
    """

    latest: dict[tuple[str, str], Answer] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    replaced: int = 0
    repeated: int = 0
    damaged: list[int] = field(default_factory=list)
    _by_id: dict[str, Answer] = field(default_factory=dict)

    def add(self, answer: Answer) -> None:
        """Count an answer, once.

        Raises:
            DataError: its id belongs to another answer.
        """
        if self.contains(answer):
            self.repeated += 1
            return
        self._by_id[answer.id] = answer
        self.names.setdefault(participant_key(answer.participant), answer.participant)
        self.replaced += answer.key in self.latest
        self.latest[answer.key] = answer

    def of(self, participant: str) -> dict[str, Answer]:
        """Return the answers of the participant with this key that count, by sample."""
        return {sample: answer for (key, sample), answer in self.latest.items() if key == participant}

    def contains(self, answer: Answer) -> bool:
        """Tell whether an answer was added before, even if it was replaced since.

        Raises:
            DataError: its id belongs to another answer.
        """
        known = self._by_id.get(answer.id)
        if known is not None and (known.key, known.ranking) != (answer.key, answer.ranking):
            raise DataError("This answer has the id of another one; reload the page")
        return known is not None


def read_answers(folder: Path, study: Study) -> Answers:
    """Read the answers of a study, if there are any.

    A line that was truncated by a crash is skipped, and its number is recorded.

    Raises:
        DataError: a line is damaged in another way or does not fit the study, or two answers share an id.
    """
    file = folder / FILE_NAME
    answers = Answers()
    if not file.exists():
        return answers
    assigned: dict[str, set[str]] = {}
    for number, line in enumerate(file.read_bytes().split(b"\n"), start=1):
        content = line.rstrip(_PADDING)
        if not line.strip():
            continue
        try:
            data = json.loads(content)
        except (ValueError, RecursionError) as error:
            if content.startswith(_LINE_START[: len(content)]) and not content.endswith(b"}"):
                answers.damaged.append(number)
                continue
            raise DataError(f"Line {number} of {file} is damaged; repair or remove it") from error
        answer = _check_line(data, study, assigned, f"Line {number} of {file}")
        try:
            answers.add(answer)
        except DataError as error:
            raise DataError(f"Line {number} of {file} has the id of another answer; remove one of them") from error
    return answers


def _check_line(data: object, study: Study, assigned: dict[str, set[str]], where: str) -> Answer:
    """Return a line as an answer that fits the study; `assigned` caches the samples of each participant."""
    try:
        answer = Answer.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{where} is not an answer ({key}: {first['msg']}); remove the line") from error
    if answer.participant not in assigned:
        try:
            name = participant_name(answer.participant)
        except DataError as error:
            raise DataError(f"{where} has an invalid participant ({error}); remove the line") from error
        assigned[answer.participant] = {task.sample.name for task in study.tasks(name)}
    if answer.sample not in assigned[answer.participant]:
        raise DataError(
            f"{where} is about sample '{answer.sample}', which this study does not show to {answer.participant}; "
            "restore the study.json that the answers belong to"
        )
    if sorted(answer.ranking) != sorted(study.methods):
        raise DataError(
            f"{where} ranks {', '.join(answer.ranking)}, but the study's methods are {', '.join(study.methods)}; "
            "restore the study.json that the answers belong to"
        )
    return answer


Outcome = Literal["stored", "already stored"]


class AnswerStore:
    """Appends answers to the file, which it locks; thread-safe.

    Used as a context manager. An answer is on the disk when `append` returns.

    Args:
        folder: the study's folder.
        study: the study.

    Raises:
        DataError: existing answers do not fit the study.
        OutputError: another process uses the file, or it cannot be written.
    """

    def __init__(self, folder: Path, study: Study) -> None:
        self.path = folder / FILE_NAME
        self._lock = Lock()
        try:
            self._file = self.path.open("ab+", buffering=0)
        except OSError as error:
            raise OutputError(f"cannot write {self.path} ({error.strerror}); change its permissions") from error
        try:
            _lock_file(self._file, self.path)
            sync_folder(folder)
            self.answers = read_answers(folder, study)
            self._end_line()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, identity: str, participant: str, sample: str, ranking: list[str], seconds: float) -> Outcome:
        """Store an answer, unless its id is known or it changes nothing.

        The id is chosen by the page for this ranking, which lists the methods, best first.

        Raises:
            DataError: the id belongs to another answer.
            OutputError: writing failed; the file is unchanged.
        """
        answer = Answer(
            id=identity,
            participant=participant,
            sample=sample,
            ranking=ranking,
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
            seconds=round(seconds, 2),
        )
        with self._lock:
            latest = self.answers.latest.get(answer.key)
            if self.answers.contains(answer) or (latest is not None and latest.ranking == answer.ranking):
                return "already stored"
            self._end_line()  # of an answer whose writing failed, if truncating the file failed too
            self._write(answer.model_dump_json().encode() + b"\n")
            self.answers.add(answer)
        return "stored"

    def done(self, participant: str) -> dict[str, Answer]:
        """Return the answers of a participant that count, by sample."""
        with self._lock:
            return self.answers.of(participant_key(participant))

    def _write(self, line: bytes) -> None:
        """Append a line and sync it to the disk, or leave the file unchanged."""
        size = os.fstat(self._file.fileno()).st_size
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[self._file.write(rest) :]
            flush_to_disk(self._file.fileno())
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(size)
            raise OutputError(f"cannot write {self.path} ({error.strerror}); free space on its disk") from error

    def _end_line(self) -> None:
        """End a truncated last line, so that the next answer starts a new one."""
        if self._file.seek(0, os.SEEK_END):
            self._file.seek(-1, os.SEEK_END)
            if self._file.read(1) != b"\n":
                self._write(b"\n")


def _lock_file(file: FileIO, path: Path) -> None:
    """Lock a file against other processes until it is closed, where that is possible."""
    try:
        import fcntl
    except ImportError:
        return
    if not lock_file(file, fcntl.flock):
        raise OutputError(f"{path} is in use: this study is already being served; stop that server first")

"""The answers of a user study: appended to a file that survives a crash, each counted once.

`answers.jsonl` holds one answer per line and is only ever appended to. A corrected answer is a new line; of all lines
of one participant and sample the last one counts.
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
from lab2pix.utils.files import sync_folder
from lab2pix.web.study_samples import Study, participant_key, participant_name

__all__ = ["FILE_NAME", "MAX_SECONDS", "Answer", "AnswerBook", "Answers", "read_answers"]

FILE_NAME = "answers.jsonl"
MAX_SECONDS = 1e6

_BEGINNING = b'{"id":"'
"""What each line begins with."""

_LOST = b"\0 \r"
"""What may stand at the end of a line and says nothing: a disk that lost power holds zeros where a line was to be."""


class Answer(BaseModel):
    """One ranking: a line of the file.

    Attributes:
        id: made up by the page for this ranking, so that one that is sent twice is kept once.
        participant: the name.
        sample: its name.
        ranking: the methods, best first.
        time: when it arrived, in UTC.
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
    def place(self) -> tuple[str, str]:
        """What a later answer replaces: the participant's key and the sample's name."""
        return participant_key(self.participant), self.sample


@dataclass
class Answers:
    """What `answers.jsonl` holds.

    Attributes:
        latest: the answer that counts, by participant's key and sample's name.
        names: each participant's name as first given, by key, in the order of their first answers.
        replaced: how many answers were corrected later.
        repeated: how many lines repeat an answer with the same id.
        damaged: numbers of the lines that were cut short, from 1.
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
        if self.holds(answer):
            self.repeated += 1
            return
        self._by_id[answer.id] = answer
        self.names.setdefault(participant_key(answer.participant), answer.participant)
        self.replaced += answer.place in self.latest
        self.latest[answer.place] = answer

    def of(self, key: str) -> dict[str, Answer]:
        """Return the answers that count of the participant with this key, by sample."""
        return {sample: answer for (name, sample), answer in self.latest.items() if name == key}

    def holds(self, answer: Answer) -> bool:
        """Say whether an answer is here already, replaced since or not.

        Raises:
            DataError: its id belongs to another answer.
        """
        known = self._by_id.get(answer.id)
        if known is not None and (known.place, known.ranking) != (answer.place, answer.ranking):
            raise DataError("This answer has the id of another one; load the page again")
        return known is not None


def read_answers(folder: Path, study: Study) -> Answers:
    """Read all answers of a study; there may be none yet.

    A line that was cut short, as by a crash, is skipped and its number kept.

    Raises:
        DataError: a line is damaged otherwise, or does not fit the study, or two answers have one id.
    """
    file = folder / FILE_NAME
    answers = Answers()
    if not file.exists():
        return answers
    shown: dict[str, set[str]] = {}
    for number, line in enumerate(file.read_bytes().split(b"\n"), start=1):
        kept = line.rstrip(_LOST)
        if not line.strip():
            continue
        try:
            data = json.loads(kept)
        except (ValueError, RecursionError) as error:
            if not _is_cut_short(kept):
                raise DataError(f"Line {number} of {file} is damaged; mend or remove it") from error
            answers.damaged.append(number)
            continue
        answer = _checked(data, study, shown, f"Line {number} of {file}")
        try:
            answers.add(answer)
        except DataError as error:
            raise DataError(f"Line {number} of {file} has the id of another answer; remove one of them") from error
    return answers


def _is_cut_short(line: bytes) -> bool:
    """Say whether a line is the beginning of one."""
    return line.startswith(_BEGINNING[: len(line)]) and not line.endswith(b"}")


def _checked(data: object, study: Study, shown: dict[str, set[str]], where: str) -> Answer:
    """Return a line as an answer that fits the study; `shown` keeps the samples of each participant."""
    try:
        answer = Answer.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{where} is no answer ({key}: {first['msg']}); remove the line") from error
    if answer.participant not in shown:
        try:
            name = participant_name(answer.participant)
        except DataError as error:
            raise DataError(f"{where} has no name of a participant ({error}); remove the line") from error
        shown[answer.participant] = {task.sample.name for task in study.tasks(name)}
    if answer.sample not in shown[answer.participant]:
        raise DataError(
            f"{where} is about sample '{answer.sample}', which this study does not show to {answer.participant}; "
            "put back the study.json that the answers belong to"
        )
    if sorted(answer.ranking) != sorted(study.methods):
        raise DataError(
            f"{where} ranks {', '.join(answer.ranking)}, but the study's methods are {', '.join(study.methods)}; "
            "put back the study.json that the answers belong to"
        )
    return answer


Outcome = Literal["stored", "already stored"]
"""What became of an answer that arrived."""


class AnswerBook:
    """Appends answers; safe among threads, and alone on its file among processes.

    Used as a context manager. Each answer is on the disk when `append` returns.

    Args:
        folder: the study's folder.
        study: the study.

    Raises:
        DataError: the answers that are there do not fit the study.
        OutputError: another process has the file, or it cannot be written.
    """

    def __init__(self, folder: Path, study: Study) -> None:
        self.path = folder / FILE_NAME
        self._lock = Lock()
        try:
            self._file = self.path.open("ab+", buffering=0)
        except OSError as error:
            raise OutputError(f"cannot write {self.path} ({error.strerror}); change its rights") from error
        try:
            _take(self._file, self.path)
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
        """Keep an answer, unless it is there already.

        An answer that was sent twice (its id is known), or that changes nothing, gets no second line.

        Args:
            identity: made up by the page for this ranking.
            participant: the name.
            sample: the sample's name.
            ranking: the methods, best first.
            seconds: how long the participant looked at it.

        Raises:
            DataError: the id belongs to another answer.
            OutputError: the disk refused; the file is as it was.
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
            latest = self.answers.latest.get(answer.place)
            if self.answers.holds(answer) or (latest is not None and latest.ranking == answer.ranking):
                return "already stored"
            self._end_line()  # of an answer that the disk refused, if it refused to shorten the file as well
            self._write(answer.model_dump_json().encode() + b"\n")
            self.answers.add(answer)
        return "stored"

    def done(self, participant: str) -> dict[str, Answer]:
        """Return the answers of a participant that count, by sample."""
        with self._lock:
            return self.answers.of(participant_key(participant))

    def _write(self, line: bytes) -> None:
        """Append a line and force it to the disk, or leave the file as it was."""
        size = os.fstat(self._file.fileno()).st_size
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(size)
            raise OutputError(f"cannot write {self.path} ({error.strerror}); free space on its disk") from error

    def _end_line(self) -> None:
        """End a line that a crash cut short, so that the next answer begins its own."""
        if self._file.seek(0, os.SEEK_END):
            self._file.seek(-1, os.SEEK_END)
            if self._file.read(1) != b"\n":
                self._write(b"\n")


def _take(file: FileIO, path: Path) -> None:
    """Keep other processes from appending, for as long as the file is open; Windows goes without."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputError(f"{path} is in use: this study is served already; stop that first") from error

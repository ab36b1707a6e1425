"""Fixtures: a tiny study, and a tiny model behind the painter's application and server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from tests.helpers.generators import tiny_synthesizer

pytest.importorskip("uvicorn", reason="the extra 'web' is not installed")
from starlette.testclient import TestClient

from lab2pix.batch import Batch
from lab2pix.inference import Synthesizer
from lab2pix.labels.space import LabelSpace
from lab2pix.web.painter.app import create_app
from lab2pix.web.painter.service import PainterService
from lab2pix.web.security import HostChecker
from lab2pix.web.serving import Server, listen
from lab2pix.web.study.build import BuiltStudy, build_study
from lab2pix.web.study.samples import Study
from lab2pix.web.study.store import AnswerStore

METHODS = ("spade", "lab2pix-v2", "no norm")
NAMES = ("a", "b", "city/c", "d", "e", "f")


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """Folders `labels`, `truth` and one per method with the same file names, each with its own gray level."""
    found = {"labels": tmp_path / "labels", "truth": tmp_path / "truth"}
    found |= {method: tmp_path / "out" / method for method in METHODS}
    for number, (kind, folder) in enumerate(found.items()):
        for name in NAMES:
            file = folder / f"{name}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            if kind == "labels":
                ids = np.zeros((6, 8), dtype=np.uint8)
                ids[4:] = 3
                Image.fromarray(ids).save(file)
            else:
                Image.fromarray(np.full((6, 8, 3), 40 * number, dtype=np.uint8)).save(file)
    return found


@pytest.fixture
def build(folders: dict[str, Path], tmp_path: Path) -> Callable[..., BuiltStudy]:
    """Builds a study of those images in `tmp_path/study`; takes settings of `build_study`."""

    def call(
        methods: tuple[str, ...] = METHODS,
        *,
        out: Path | None = None,
        label_space: str | None = "scenes",
        **settings: object,
    ) -> BuiltStudy:
        chosen = {method: folders[method] for method in methods}
        given: dict[str, object] = {"truth": folders["truth"], "samples": 4, "pool": 6, "seed": 5, **settings}
        space = None if label_space is None else LabelSpace.load(label_space)
        return build_study(folders["labels"], space, chosen, out or tmp_path / "study", **given)  # type: ignore[arg-type]

    return call


@pytest.fixture
def study_folder(build: Callable[..., BuiltStudy]) -> Path:
    """A study of three methods: each participant ranks four samples of six."""
    return build().folder


@pytest.fixture
def study(study_folder: Path) -> Study:
    """The study in that folder."""
    return Study.load(study_folder)


@pytest.fixture
def store(study_folder: Path, study: Study) -> Iterator[AnswerStore]:
    """The answers to that study."""
    with AnswerStore(study_folder, study) as opened:
        yield opened


# --- the painter ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def synthesizer() -> Synthesizer:
    """A tiny model of scenes, shared by all tests."""
    return tiny_synthesizer()


@pytest.fixture(scope="session")
def model_folder(synthesizer: Synthesizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with that model's weights."""
    return synthesizer.save(tmp_path_factory.mktemp("painter") / "model")


@pytest.fixture(scope="module")
def open_client() -> Iterator[Callable[..., TestClient]]:
    """Opens a client of a painter with a model."""
    with ExitStack() as stack:

        def call(synthesizer: Synthesizer, *allow_hosts: str) -> TestClient:
            app = create_app(PainterService(synthesizer), HostChecker("127.0.0.1", allow_hosts))
            return stack.enter_context(TestClient(app, base_url="http://127.0.0.1:8000"))

        yield call


@pytest.fixture(scope="module")
def client(open_client: Callable[..., TestClient], synthesizer: Synthesizer) -> TestClient:
    """A client of a painter with the tiny model."""
    return open_client(synthesizer, "paint.example")


class PainterServer:
    """A painter behind a socket, in a thread of this process."""

    def __init__(self, synthesizer: Synthesizer) -> None:
        self.service = PainterService(synthesizer)
        self._socket = listen("127.0.0.1", 0)
        self.port = self._socket.getsockname()[1]
        self.app = create_app(self.service, HostChecker("127.0.0.1"))
        self._server = Server(self.app, self.service.queue.close)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]})
        self._thread.start()

    def request_stop(self) -> None:
        """Stop as Ctrl-C does."""
        self._server.should_exit = True

    def stop(self) -> None:
        self.request_stop()
        self._thread.join(20)
        assert not self._thread.is_alive()


@pytest.fixture
def server(synthesizer: Synthesizer) -> Iterator[PainterServer]:
    """The tiny model behind a socket."""
    started = PainterServer(synthesizer)
    yield started
    started.stop()


@pytest.fixture
def blocked(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, list[int]]]:
    """An event that generation waits for, and the first id of each label map whose generation began."""
    event, begun = threading.Event(), []
    draw = Synthesizer.generate

    def slow(self: Synthesizer, batch: Batch, noise: Tensor) -> Tensor:
        begun.append(int(batch.label[0, 0, 0]))
        assert event.wait(20)
        return draw(self, batch, noise)

    monkeypatch.setattr(Synthesizer, "generate", slow)
    yield event, begun
    event.set()

"""Folders of tiny pictures for a study, and the study that is made of them; tiny models for the painter."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lab2pix.batch import Batch
from lab2pix.inference import ModelInfo, Synthesizer
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import build_generator, build_sampling, generate, read_config
from lab2pix.web.study_make import MadeStudy, make_study
from lab2pix.web.study_samples import Study

METHODS = ("spade", "lab2pix-v2", "no norm")
NAMES = ("a", "b", "city/c", "d", "e", "f")


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """Folders `labels`, `truth` and one per method, with the same names; each has a gray of its own."""
    places = {"labels": tmp_path / "labels", "truth": tmp_path / "truth"}
    places |= {method: tmp_path / "out" / method for method in METHODS}
    for number, (kind, folder) in enumerate(places.items()):
        for name in NAMES:
            file = folder / f"{name}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            if kind == "labels":
                ids = np.zeros((6, 8), dtype=np.uint8)
                ids[4:] = 3
                Image.fromarray(ids).save(file)
            else:
                Image.fromarray(np.full((6, 8, 3), 40 * number, dtype=np.uint8)).save(file)
    return places


@pytest.fixture
def make(folders: dict[str, Path], tmp_path: Path) -> Callable[..., MadeStudy]:
    """Makes a study of the tiny pictures in `tmp_path/study`; takes what `make_study` takes beside the folders."""

    def call(
        methods: tuple[str, ...] = METHODS,
        *,
        out: Path | None = None,
        label_space: str | None = "scenes",
        **settings: object,
    ) -> MadeStudy:
        chosen = {method: folders[method] for method in methods}
        given: dict[str, object] = {"truth": folders["truth"], "samples": 4, "pool": 6, "seed": 5, **settings}
        space = None if label_space is None else LabelSpace.load(label_space)
        return make_study(folders["labels"], space, chosen, out or tmp_path / "study", **given)  # type: ignore[arg-type]

    return call


@pytest.fixture
def study_folder(make: Callable[..., MadeStudy]) -> Path:
    """A study of three methods: each participant ranks four samples of six."""
    return make().folder


@pytest.fixture
def study(study_folder: Path) -> Study:
    """The study in that folder."""
    return Study.load(study_folder)


# --- the painter ----------------------------------------------------------------------------------------------------


def make_drawer(space: str = "scenes", *, data: dict[str, object] | None = None, **generator: object) -> Synthesizer:
    """Return an untrained model of 64x64 whose weights and statistics are such that label map and noise show."""
    torch.manual_seed(0)
    config = read_config(
        {
            "name": "tiny",
            "data": {"layout": "folder", "label_space": space, "size": (64, 64), **(data or {})},
            "generator": {
                "width": 4,
                "modulation_hidden": 8,
                "noise_dim": 16,
                "spectral_norm": False,
                "global_encoder": {"width": 4, "max_width": 16},
                **generator,
            },
        }
    )
    label_space = LabelSpace.load(space)
    network = build_generator(config, label_space)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                torch.nn.init.kaiming_normal_(parameter, nonlinearity="linear")
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
        coarse = torch.randint(0, label_space.num_classes, (8, 8, 8))
        label = coarse.repeat_interleave(8, 1).repeat_interleave(8, 2)
        generate(network.train(), build_sampling(config, label_space), Batch(label), torch.randn(8, 16))
    return Synthesizer(network, ModelInfo(config, label_space, 7), device="cpu")


@pytest.fixture(scope="session")
def make_painter_model() -> Callable[..., Synthesizer]:
    """Makes a tiny model: of a label space, with settings of `data` and of the generator."""
    return make_drawer


@pytest.fixture(scope="session")
def drawer() -> Synthesizer:
    """A tiny model of scenes; nobody may change it."""
    return make_drawer()


@pytest.fixture(scope="session")
def painter_model(drawer: Synthesizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with that model's weights."""
    return drawer.save(tmp_path_factory.mktemp("painter") / "model")


class Served:
    """A painter behind a socket, in a thread of this process.

    Attributes:
        painter: what answers.
        port: where it listens.
    """

    def __init__(self, drawer: Synthesizer) -> None:
        from lab2pix.web.guard import host_checker, listen
        from lab2pix.web.painter import create_app
        from lab2pix.web.painter_desk import Painter
        from lab2pix.web.serving import Server

        self.painter = Painter(drawer)
        self._socket = listen("127.0.0.1", 0)
        self.port = self._socket.getsockname()[1]
        app = create_app(self.painter, host_checker("127.0.0.1"))
        self._server = Server(app, self.painter.worker.close)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]})
        self._thread.start()

    def end(self) -> None:
        """Tell it to end, as Ctrl-C does."""
        self._server.should_exit = True

    def stop(self) -> None:
        self.end()
        self._thread.join(20)
        assert not self._thread.is_alive()


@pytest.fixture
def served(drawer: Synthesizer) -> Iterator[Served]:
    """That model behind a socket."""
    made = Served(drawer)
    yield made
    made.stop()


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, list[int]]]:
    """An event that drawing waits for, and the first id of each label map that was drawn."""
    event, came = threading.Event(), []
    draw = Synthesizer.generate

    def slow(self: Synthesizer, batch: Batch, noise: Tensor) -> Tensor:
        came.append(int(batch.label[0, 0, 0]))
        assert event.wait(20)
        return draw(self, batch, noise)

    monkeypatch.setattr(Synthesizer, "generate", slow)
    yield event, came
    event.set()

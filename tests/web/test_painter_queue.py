"""One thread, a short queue: who waits, who is dropped, who is told to come again, and how it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO

import httpx
import numpy as np
import pytest
from PIL import Image
from torch import Tensor

pytest.importorskip("starlette", reason="the extra 'web' is not installed")
from starlette.testclient import TestClient

from lab2pix.batch import Batch
from lab2pix.inference import Synthesizer
from lab2pix.web.guard import RefusedError, host_checker
from lab2pix.web.painter import create_app
from lab2pix.web.painter_desk import Painter
from lab2pix.web.painter_queue import Worker
from tests.helpers.http import until


class Door:
    """Holds back whoever comes until it is opened, and keeps what came."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.came: list[object] = []

    def enter(self, what: object) -> object:
        self.came.append(what)
        assert self.open.wait(20)
        return what


@pytest.fixture
def door() -> Iterator[Door]:
    made = Door()
    yield made
    made.open.set()


@pytest.fixture
def worker(door: Door) -> Iterator[Worker]:
    """A worker with room for three, that is held back by its first piece of work."""
    made = Worker(3)
    made.start()
    made.submit(lambda: door.enter("first"))
    until(lambda: door.came == ["first"])
    yield made
    door.open.set()
    made.close()
    made.join()


def failure(future: Future[object]) -> tuple[int, str]:
    error = future.exception(20)
    assert isinstance(error, RefusedError)
    return error.status, str(error)


# --- the worker -----------------------------------------------------------------------------------------------------


def test_work_is_done_in_order_by_one_thread(worker: Worker, door: Door) -> None:
    done: list[tuple[int, str]] = []
    futures = [worker.submit(lambda n=n: done.append((n, threading.current_thread().name))) for n in range(3)]  # type: ignore[misc]
    assert (worker.waiting, done) == (3, [])
    door.open.set()
    for future in futures:
        future.result(20)
    assert done == [(0, "painter"), (1, "painter"), (2, "painter")]


def test_a_full_queue_tells_when_to_come_again(worker: Worker, door: Door) -> None:
    for number in range(3):
        worker.submit(lambda: None, f"token{number}")
    for token in (None, "another"):
        with pytest.raises(RefusedError, match="3 requests wait already") as error:
            worker.submit(lambda: None, token)
        assert error.value.status == 429
        assert 1 <= int(error.value.headers["retry-after"]) <= 60
    door.open.set()
    until(lambda: worker.waiting == 0)
    assert worker.submit(lambda: "again").result(20) == "again"


def test_the_newest_of_a_token_takes_the_place_of_the_one_that_waits(worker: Worker, door: Door) -> None:
    done: list[str] = []
    old = worker.submit(lambda: done.append("old"), "mine")
    other = worker.submit(lambda: done.append("other"), "yours")
    nobodys = worker.submit(lambda: done.append("nobody's"))
    new = worker.submit(lambda: done.append("new"), "mine")  # though the queue is full
    assert failure(old) == (409, "A newer request took its place")
    assert worker.waiting == 3
    door.open.set()
    for future in (other, nobodys, new):
        future.result(20)
    assert done == ["new", "other", "nobody's"]


def test_what_has_begun_is_not_replaced(door: Door) -> None:
    worker = Worker(3)
    worker.start()
    begun = worker.submit(lambda: door.enter("begun"), "mine")
    until(lambda: door.came == ["begun"])
    new = worker.submit(lambda: "new", "mine")
    door.open.set()
    assert (begun.result(20), new.result(20)) == ("begun", "new")
    worker.close()
    worker.join()


def test_work_that_nobody_waits_for_is_forgotten(worker: Worker, door: Door) -> None:
    done: list[str] = []
    futures = [worker.submit(lambda: done.append("work")) for _ in range(3)]
    worker.drop(futures[1])
    assert worker.waiting == 2
    worker.submit(lambda: done.append("later"))
    door.open.set()
    until(lambda: len(done) == 3)
    assert done == ["work", "work", "later"]
    assert futures[1].cancelled()


def test_an_error_reaches_whoever_waits_and_nobody_else(worker: Worker, door: Door) -> None:
    bad, good = worker.submit(lambda: 1 // 0), worker.submit(lambda: "good")
    door.open.set()
    assert isinstance(bad.exception(20), ZeroDivisionError)
    assert good.result(20) == "good"


def test_closing_refuses_what_waits_and_finishes_what_has_begun(door: Door) -> None:
    worker = Worker(3)
    worker.start()
    begun = worker.submit(lambda: door.enter("begun"))
    until(lambda: door.came == ["begun"])
    waiting = [worker.submit(lambda: "never") for _ in range(3)]
    worker.close()
    for future in waiting:
        status, sentence = failure(future)
        assert (status, "shutting down" in sentence) == (503, True)
    with pytest.raises(RefusedError, match="shutting down"):
        worker.submit(lambda: "never")
    assert not begun.done()
    door.open.set()
    worker.join()
    assert begun.result(0) == "begun"


def test_a_worker_that_never_started_ends() -> None:
    worker = Worker()
    future = worker.submit(lambda: "never")
    worker.close()
    worker.join()
    assert failure(future)[0] == 503


# --- over HTTP ------------------------------------------------------------------------------------------------------


@pytest.fixture
def painter(drawer: Synthesizer, door: Door, monkeypatch: pytest.MonkeyPatch) -> Painter:
    """A painter with room for two, whose model draws when the door is open."""
    draw = Synthesizer.generate

    def slow(self: Synthesizer, batch: Batch, noise: Tensor) -> Tensor:
        door.enter(int(batch.label[0, 0, 0]))
        return draw(self, batch, noise)

    monkeypatch.setattr(Synthesizer, "generate", slow)
    return Painter(drawer, capacity=2)


@pytest.fixture
def client(painter: Painter) -> Iterator[TestClient]:
    with TestClient(create_app(painter, host_checker("127.0.0.1")), base_url="http://127.0.0.1:8000") as opened:
        assert len(opened.get("/api/examples").json()) == 6
        yield opened


@pytest.fixture
def post(client: TestClient) -> Iterator[Callable[..., Future[httpx.Response]]]:
    """Sends a label map of one class in a thread."""
    with ThreadPoolExecutor(8) as pool:

        def call(ids: int, query: str = "") -> Future[httpx.Response]:
            out = BytesIO()
            Image.fromarray(np.full((64, 64), ids, np.uint8)).save(out, format="PNG")
            kind = {"content-type": "image/png"}
            return pool.submit(client.post, f"/api/synthesize?seed=1{query}", content=out.getvalue(), headers=kind)

        yield call


def test_a_full_server(
    client: TestClient, painter: Painter, post: Callable[..., Future[httpx.Response]], door: Door
) -> None:
    first = post(0)
    until(lambda: door.came == [0])
    waiting = [post(1), post(2)]
    until(lambda: painter.worker.waiting == 2)
    assert client.get("/api/model").json()["busy"] == {"waiting": 2, "capacity": 2}
    for refused in (post(3).result(20), client.post("/api/random"), post(4, "&request=someone0").result(20)):
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert "2 requests wait already" in refused.json()["error"]
    door.open.set()
    assert [answer.result(20).status_code for answer in (first, *waiting)] == [200, 200, 200]
    assert sorted(door.came) == [0, 1, 2]  # type: ignore[type-var]
    assert client.get("/api/model").json()["busy"]["waiting"] == 0


def test_the_newest_request_wins(painter: Painter, post: Callable[..., Future[httpx.Response]], door: Door) -> None:
    first = post(0, "&request=tab0tab0")
    until(lambda: door.came == [0])
    old = post(1, "&request=tab0tab0")
    until(lambda: painter.worker.waiting == 1)
    other = post(2, "&request=tab1tab1")
    until(lambda: painter.worker.waiting == 2)
    new = post(3, "&request=tab0tab0")
    response = old.result(20)
    assert (response.status_code, response.json()) == (409, {"error": "A newer request took its place"})
    door.open.set()
    assert [answer.result(20).status_code for answer in (first, other, new)] == [200, 200, 200]
    assert door.came == [0, 3, 2]


def test_shutting_down(
    drawer: Synthesizer, painter: Painter, door: Door, post: Callable[..., Future[httpx.Response]]
) -> None:
    running = post(0)
    until(lambda: door.came == [0])
    waiting = post(1)
    until(lambda: painter.worker.waiting == 1)
    painter.worker.close()
    for refused in (waiting.result(20), post(2).result(20)):
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "5"
        assert "shutting down" in refused.json()["error"]
    door.open.set()
    answer = running.result(20)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert door.came == [0]

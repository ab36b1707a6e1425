"""Job queue of the painter: order, capacity, channels, disconnects, and shutdown."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import pytest
from starlette.testclient import TestClient

from lab2pix.inference import Synthesizer
from lab2pix.web.painter.app import create_app
from lab2pix.web.painter.queue import JobQueue
from lab2pix.web.painter.service import PainterService
from lab2pix.web.responses import HTTPError
from lab2pix.web.security import HostChecker
from tests.helpers.painter import PNG, label_png, wait_until

Post = Callable[..., Future[httpx.Response]]
Blocked = tuple[threading.Event, list[int]]


class Door:
    """Blocks jobs until it is opened, and records them."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.came: list[object] = []

    def enter(self, job: object) -> object:
        self.came.append(job)
        assert self.open.wait(20)
        return job


@pytest.fixture
def door() -> Iterator[Door]:
    closed = Door()
    yield closed
    closed.open.set()


@pytest.fixture
def queue(door: Door) -> Iterator[JobQueue]:
    """A queue of capacity three, blocked by its first job."""
    started = JobQueue(3)
    started.start()
    started.submit(lambda: door.enter("first"))
    wait_until(lambda: door.came == ["first"])
    yield started
    door.open.set()
    started.close()
    started.join()


def failure(future: Future[object]) -> tuple[int, str]:
    error = future.exception(20)
    assert isinstance(error, HTTPError)
    return error.status, str(error)


# --- JobQueue -------------------------------------------------------------------------------------------------------


def test_queue_runs_jobs_in_order_in_one_thread(queue: JobQueue, door: Door) -> None:
    done: list[tuple[int, str]] = []
    futures = [queue.submit(lambda n=n: done.append((n, threading.current_thread().name))) for n in range(3)]  # type: ignore[misc]
    assert (queue.waiting, done) == (3, [])
    door.open.set()
    for future in futures:
        future.result(20)
    assert done == [(0, "painter"), (1, "painter"), (2, "painter")]


def test_full_queue_refuses_with_retry_after(queue: JobQueue, door: Door) -> None:
    for number in range(3):
        queue.submit(lambda: None, f"channel{number}")
    for channel in (None, "another"):
        with pytest.raises(HTTPError, match="3 requests are waiting already") as error:
            queue.submit(lambda: None, channel)
        assert error.value.status == 429
        assert 1 <= int(error.value.headers["retry-after"]) <= 60
    door.open.set()
    wait_until(lambda: queue.waiting == 0)
    assert queue.submit(lambda: "again").result(20) == "again"


def test_newer_job_of_a_channel_replaces_the_waiting_one(queue: JobQueue, door: Door) -> None:
    done: list[str] = []
    old = queue.submit(lambda: done.append("old"), "mine")
    other = queue.submit(lambda: done.append("other"), "yours")
    nobodys = queue.submit(lambda: done.append("nobody's"))
    new = queue.submit(lambda: done.append("new"), "mine")  # although the queue is full
    assert failure(old) == (409, "A newer request replaced this one")
    assert queue.waiting == 3
    door.open.set()
    for future in (other, nobodys, new):
        future.result(20)
    assert done == ["new", "other", "nobody's"]


def test_running_job_is_not_replaced(door: Door) -> None:
    queue = JobQueue(3)
    queue.start()
    begun = queue.submit(lambda: door.enter("begun"), "mine")
    wait_until(lambda: door.came == ["begun"])
    new = queue.submit(lambda: "new", "mine")
    door.open.set()
    assert (begun.result(20), new.result(20)) == ("begun", "new")
    queue.close()
    queue.join()


def test_dropped_job_is_not_run(queue: JobQueue, door: Door) -> None:
    done: list[str] = []
    futures = [queue.submit(lambda: done.append("work")) for _ in range(3)]
    queue.drop(futures[1])
    assert queue.waiting == 2
    queue.submit(lambda: done.append("later"))
    door.open.set()
    wait_until(lambda: len(done) == 3)
    assert done == ["work", "work", "later"]
    assert futures[1].cancelled()


def test_failed_job_does_not_affect_the_next(queue: JobQueue, door: Door) -> None:
    bad, good = queue.submit(lambda: 1 // 0), queue.submit(lambda: "good")
    door.open.set()
    assert isinstance(bad.exception(20), ZeroDivisionError)
    assert good.result(20) == "good"


def test_closed_queue_refuses_waiting_jobs_and_finishes_the_running_one(door: Door) -> None:
    queue = JobQueue(3)
    queue.start()
    begun = queue.submit(lambda: door.enter("begun"))
    wait_until(lambda: door.came == ["begun"])
    waiting = [queue.submit(lambda: "never") for _ in range(3)]
    queue.close()
    for future in waiting:
        status, sentence = failure(future)
        assert (status, "shutting down" in sentence) == (503, True)
    with pytest.raises(HTTPError, match="shutting down"):
        queue.submit(lambda: "never")
    assert not begun.done()
    door.open.set()
    queue.join()
    assert begun.result(0) == "begun"


def test_queue_that_never_started_can_be_closed() -> None:
    queue = JobQueue()
    future = queue.submit(lambda: "never")
    queue.close()
    queue.join()
    assert failure(future)[0] == 503


# --- over HTTP ------------------------------------------------------------------------------------------------------


@pytest.fixture
def painter(synthesizer: Synthesizer) -> PainterService:
    """A painter with a queue of capacity two."""
    return PainterService(synthesizer, capacity=2)


@pytest.fixture
def client(painter: PainterService) -> Iterator[TestClient]:
    with TestClient(create_app(painter, HostChecker("127.0.0.1")), base_url="http://127.0.0.1:8000") as opened:
        assert len(opened.get("/api/examples").json()) == 6
        yield opened


@pytest.fixture
def post(client: TestClient) -> Iterator[Post]:
    """Sends a label map of one class from a thread."""
    with ThreadPoolExecutor(8) as pool:

        def call(ids: int, query: str = "") -> Future[httpx.Response]:
            return pool.submit(client.post, f"/api/synthesize?seed=1{query}", content=label_png(ids), headers=PNG)

        yield call


@pytest.mark.slow
def test_server_with_full_queue_refuses_requests(
    client: TestClient, painter: PainterService, post: Post, blocked: Blocked
) -> None:
    event, begun = blocked
    first = post(0)
    wait_until(lambda: begun == [0])
    waiting = [post(1), post(2)]
    wait_until(lambda: painter.queue.waiting == 2)
    assert client.get("/api/model").json()["queue"] == {"waiting": 2, "capacity": 2}
    for refused in (post(3).result(20), client.post("/api/random"), post(4, "&channel=someone0").result(20)):
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert "2 requests are waiting already" in refused.json()["error"]
    event.set()
    assert [answer.result(20).status_code for answer in (first, *waiting)] == [200, 200, 200]
    assert sorted(begun) == [0, 1, 2]
    assert client.get("/api/model").json()["queue"]["waiting"] == 0


def test_newest_request_of_a_channel_wins(painter: PainterService, post: Post, blocked: Blocked) -> None:
    event, begun = blocked
    first = post(0, "&channel=tab0tab0")
    wait_until(lambda: begun == [0])
    old = post(1, "&channel=tab0tab0")
    wait_until(lambda: painter.queue.waiting == 1)
    other = post(2, "&channel=tab1tab1")
    wait_until(lambda: painter.queue.waiting == 2)
    new = post(3, "&channel=tab0tab0")
    response = old.result(20)
    assert (response.status_code, response.json()) == (409, {"error": "A newer request replaced this one"})
    event.set()
    assert [answer.result(20).status_code for answer in (first, other, new)] == [200, 200, 200]
    assert begun == [0, 3, 2]


def test_shutdown_refuses_waiting_requests(painter: PainterService, post: Post, blocked: Blocked) -> None:
    event, begun = blocked
    running = post(0)
    wait_until(lambda: begun == [0])
    waiting = post(1)
    wait_until(lambda: painter.queue.waiting == 1)
    painter.queue.close()
    for refused in (waiting.result(20), post(2).result(20)):
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "5"
        assert "shutting down" in refused.json()["error"]
    event.set()
    answer = running.result(20)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert begun == [0]

"""Training on two nodes, which are two agents of torchrun on this machine."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers import toy

CONFIG = {"train__steps": 30, "checkpoint__every": 4, "monitor__sample_every": 15}


def node(address: str, job: dict[str, object]) -> subprocess.Popen[str]:
    """Start a node: an agent, which starts one process of the training."""
    words = [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"),
        *("--rdzv-backend", "c10d", "--rdzv-id", "test", "--rdzv-endpoint", address, "--max-restarts", "5"),
        *("--local-addr", "127.0.0.1", "-m", "tests.helpers.toy", json.dumps(job)),
    ]
    root = Path(toy.__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.Popen(words, cwd=root, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for_steps(run: Path, count: int) -> None:
    deadline = time.monotonic() + 200
    while not (run / "log.jsonl").exists() or (run / "log.jsonl").read_text().count('"losses"') < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.xslow
@pytest.mark.timeout(900)
def test_a_node_that_is_killed_and_comes_back_changes_nothing(server, tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert server.run(*toy.jobs(2, out=str(whole), config=CONFIG)) == [0, 0]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    job = {"out": str(run), "config": CONFIG, "resume": "auto", "delay": 0.05}
    nodes = [node(address, job)]
    try:
        with_store = nodes[0]  # the first to listen at the address; it stays
        while socket.socket().connect_ex(("127.0.0.1", int(address.rpartition(":")[2]))):
            assert with_store.poll() is None
            time.sleep(0.1)
        nodes.append(node(address, job))
        wait_for_steps(run, 6)
        for pid in processes_of(nodes[1].pid):
            os.kill(pid, signal.SIGKILL)
        nodes[1].wait()
        steps = (run / "log.jsonl").read_text().count('"losses"')
        assert steps < CONFIG["train__steps"]
        nodes.append(node(address, job))
        errors = [nodes[place].communicate(timeout=600)[1] for place in (0, 2)]
        assert [nodes[place].returncode for place in (0, 2)] == [0, 0], errors
    finally:
        for one in nodes:
            for pid in processes_of(one.pid):
                os.kill(pid, signal.SIGKILL)
    assert len(json.loads((run / "run.json").read_text())["sessions"]) > 1
    toy.assert_same_run(whole, run, CONFIG["train__steps"])


def processes_of(agent: int) -> list[int]:
    """Return an agent and the processes that it started, as far as they run."""
    children = Path(f"/proc/{agent}/task/{agent}/children")
    return [*map(int, children.read_text().split()), agent] if children.exists() else []

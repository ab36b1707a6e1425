"""Run folder: creation, locking, validation on resume, and metadata of sessions (`run.json`)."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ValidationError

from lab2pix.config.schema import RunConfig
from lab2pix.errors import CheckpointError, ConfigError, OutputError
from lab2pix.methods import read_config
from lab2pix.recipes import keep_label_spaces, to_yaml
from lab2pix.utils.distributed import DistributedContext
from lab2pix.utils.files import lock_file, output_errors, write_atomically
from lab2pix.utils.text import plural

_IGNORED = (".tmp-", ".lock")
# Settings that may change on resume, because they do not affect weights. (Moved files are compared by hash. Another
# number of threads changes the order of sums, and the log says so.)
_FREE = (
    *("monitor.", "checkpoint.", "data.workers", "train.threads"),
    *("data.root", "data.labels.root", "data.images.root", "data.source.root"),
    *("backbone.weights", "train.max_minutes", "train.evaluate_every", "evaluation."),
)


def read_run_config(run: Path) -> RunConfig:
    """Read the stored configuration of a run.

    Raises:
        CheckpointError: not a run folder, or config.yaml cannot be read.
    """
    file = run / "config.yaml"
    try:
        return read_config(yaml.safe_load(file.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{run} holds no run to resume ({file.name} is missing); start one without --resume"
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError, TypeError) as error:
        raise CheckpointError(
            f"{file} cannot be read as a run's configuration; restore it as it was written"
        ) from error


def resolve_run(config: RunConfig | None, run: Path, *, resume: bool) -> RunConfig:
    """Validate the run folder and return the configuration to train with, without writing anything.

    Without `config`, a resumed run takes the stored one.

    Raises:
        CheckpointError: no run to resume.
        ConfigError: changed settings or label spaces that affect the results of a resumed run, or a new run without
            configuration.
        OutputError: the folder cannot be written or is not empty.
    """
    if resume:
        stored = read_run_config(run)
        asked = stored if config is None else keep_label_spaces(config, stored)
        _check_same(stored, asked, run)
        _check_writable(run)
        return asked
    if config is None:
        raise ConfigError("a new run needs a configuration; name a preset or a file")
    _check_free(run)
    return keep_label_spaces(config)


def recorded_threads(run: Path) -> int | None:
    """Return the number of threads that a run was started with; None for a new run."""
    try:
        return int(json.loads((run / "run.json").read_text(encoding="utf-8"))["threads"])
    except FileNotFoundError:
        return None


def start_run(config: RunConfig, run: Path) -> None:
    """Create the folder of a new run and write `config.yaml`.

    Raises:
        OutputError: the folder cannot be created or written.
    """
    with output_errors(run, "choose another --out"):
        run.mkdir(parents=True, exist_ok=True)
        write_atomically(run / "config.yaml", to_yaml(config))


def _check_writable(run: Path) -> None:
    if not os.access(run, os.W_OK | os.X_OK):
        raise OutputError(f"no permission to write into {run}; choose another --out or change its permissions")


def _check_free(run: Path) -> None:
    if not run.exists():
        parent = next(path for path in run.absolute().parents if path.exists())
        if not parent.is_dir():
            raise OutputError(f"cannot make the folder {run}: {parent} is a file; choose another --out")
        _check_writable(parent)
        return
    if not run.is_dir():
        raise OutputError(f"{run} is a file, not a folder; choose another --out")
    _check_writable(run)
    entries = sorted(path.name for path in run.iterdir() if not path.name.startswith(_IGNORED))
    if "config.yaml" in entries:
        raise OutputError(f"{run} already holds a run; continue it with --resume, or choose another --out")
    if entries:
        raise OutputError(f"{run} is not empty (it holds '{entries[0]}'); choose another --out for the run")


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted key and value of each leaf of nested settings."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _check_same(stored: RunConfig, asked: RunConfig, run: Path) -> None:
    before, now = (dict(flatten(config.model_dump(mode="json"))) for config in (stored, asked))
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key) and not key.startswith(_FREE)]
    if changed:
        named = ", ".join(f"{key} (was {before.get(key)}, asked {now.get(key)})" for key in changed)
        raise ConfigError(
            f"the run in {run} cannot be resumed with other settings: {named}; omit them, or start a new run with "
            f"another --out, and train.init_from={run} if it is to start from these weights"
        )


@contextmanager
def lock_run(run: Path) -> Iterator[None]:
    """Lock the run folder against concurrent training.

    Raises:
        OutputError: another process holds the lock.
    """
    try:
        import fcntl
    except ImportError:  # a system without POSIX locks
        yield
        return
    with (run / ".lock").open("w") as file:
        # A POSIX lock is released when the process dies, and is not inherited by data workers.
        if not lock_file(file, fcntl.lockf):
            raise OutputError(f"another process is training in {run}; wait for it or choose another --out")
        yield


def _git(*arguments: str) -> str | None:
    try:
        # The repository of the package, independent of the working directory.
        words = ["git", "-C", str(Path(__file__).parent), *arguments]
        done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _git_state() -> dict[str, Any] | None:
    # An installed package may be inside a repository that does not track it.
    commit = _git("rev-parse", "HEAD") if _git("ls-files", "--error-unmatch", Path(__file__).name) else None
    return None if commit is None else {"commit": commit, "dirty": bool(_git("status", "--porcelain"))}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("lab2pix", "torch", "torchvision", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    found["torch"] = str(torch.__version__)  # includes the CUDA version
    return found


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()


def _session(dist: DistributedContext, step: int) -> dict[str, Any]:
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "from_step": step,
        "command": shlex.join(sys.argv),
        "versions": _versions(),
        "device": dist.device.type,
        "device_name": _device_name(dist.device),
        "processes": dist.size,
        "threads": torch.get_num_threads(),
        "git": _git_state(),
    }


def record_session(
    run: Path, config: RunConfig, dist: DistributedContext, *, step: int, samples: int, file_hash: str
) -> list[str]:
    """Append the metadata of this session to `run.json`.

    Returns:
        Warnings about changes since earlier sessions.

    Raises:
        CheckpointError: the training files differ from those of earlier sessions.
    """
    file = run / "run.json"
    session = _session(dist, step)
    record: dict[str, Any] = {
        "name": config.name,
        "seed": config.seed,
        **{key: value for key, value in session.items() if key not in ("started", "from_step")},
        "data": {"samples": samples, "file_hash": file_hash},
        "sessions": [],
    }
    notes = []
    if file.exists():
        record = json.loads(file.read_text(encoding="utf-8"))
        if step == 0:  # no step was made yet, so the files may have been repaired
            record["data"] = {"samples": samples, "file_hash": file_hash}
        if record["data"]["file_hash"] != file_hash:
            raise CheckpointError(
                f"the training files are not those that the run in {run} was started with "
                f"({record['data']['samples']} samples then, {samples} now); restore them, or start a new run"
            )
        if record["processes"] != dist.size:
            notes.append(
                f"the run was started on {record['processes']} process(es) and goes on with {dist.size}: batch norm on "
                "CPUs, image pools and dropout differ from those of the unbroken run, and so may its results"
            )
        if record["threads"] != session["threads"]:
            notes.append(
                f"the run was started with {plural(record['threads'], 'thread')} and goes on with "
                f"{session['threads']}: its results will differ from those of the unbroken run by rounding"
            )
    record["sessions"].append(session)
    write_atomically(file, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return notes

"""Work on label maps by the actors of a Ray cluster, each of which holds the model.

A chunk of label maps is one task. Ray Data restarts an actor that died and repeats its task, so a task must be
idempotent. It would do so forever; a counter ends the work after `_ATTEMPTS`.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Generic, TypeVar, cast

from torch import Tensor

from lab2pix.data.pairs import Pair
from lab2pix.errors import Lab2PixError, TrainingError
from lab2pix.inference.modes import Mode
from lab2pix.inference.synthesizer import Synthesizer
from lab2pix.inference.weights import ModelInfo
from lab2pix.utils.extras import import_extra

Result = TypeVar("Result")

_ATTEMPTS = 4
"""Times that a task is begun: label maps that always kill their actor must end the work."""


class _Actor(Generic[Result]):
    """Actor that holds the model.

    Args:
        work: what is done with a chunk of label maps.
        begin: counts a task and returns its number of attempts.
        info: settings of the model.
        weights: state dict of its generator.
        mode: inference mode.
    """

    def __init__(
        self,
        work: Callable[[Synthesizer, Sequence[Pair]], Result],
        begin: Callable[[int], int],
        info: ModelInfo,
        weights: dict[str, Tensor],
        mode: Mode,
    ) -> None:
        generator = info.build()
        generator.load_state_dict(weights)
        self.work, self.begin, self.synthesizer = work, begin, Synthesizer(generator, info, optimize=mode)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Work on a chunk; an error for the user is a result, as Ray would wrap it in its own."""
        chunk: Sequence[Pair] = pickle.loads(row["chunk"])
        result: Result | Lab2PixError
        try:
            if self.begin(row["number"]) > _ATTEMPTS:
                raise TrainingError(
                    f"{_ATTEMPTS} workers died with {chunk[0].label}, or with one of the {len(chunk) - 1} label maps "
                    "after it, perhaps as memory ran out; lower --batch-size or leave it out"
                )
            result = self.work(self.synthesizer, chunk)
        except Lab2PixError as error:
            result = error
        return {"number": row["number"], "result": pickle.dumps(result)}


def map_on_ray(
    synthesizer: Synthesizer,
    work: Callable[[Synthesizer, Sequence[Pair]], Result],
    chunks: Sequence[Sequence[Pair]],
    workers: int | None = None,
) -> Iterator[tuple[int, Result]]:
    """Yield the number and the result of each chunk, in the order in which they end.

    The cluster is the one of `RAY_ADDRESS` or the one that this machine belongs to; without one, Ray starts a cluster
    of this machine alone. Each actor takes a GPU if the cluster has GPUs, otherwise a processor.

    Args:
        synthesizer: the model, which is copied to the actors.
        work: function of a model and a chunk; it and its results are pickled.
        chunks: label maps, with absolute paths that all machines share.
        workers: largest number of actors; None: as many as there are GPUs or processors.

    Raises:
        ConfigError: the extra `ray` is not installed.
        Lab2PixError: `work` raised it.
        TrainingError: a chunk's actors died again and again, or an unexpected error occurred in one.
    """
    if not chunks:
        return
    ray = import_extra("ray", "ray", "--engine ray")
    data = import_extra("ray.data", "ray", "--engine ray")
    if not ray.is_initialized():
        # A zip or virtual environment of the caller is not shipped: the machines have lab2pix installed.
        ray.init(logging_level=logging.ERROR, log_to_driver=False)
    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    context.actor_init_retry_on_errors = True
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    counter = _start_counter(ray)
    most = min(workers or gpus or int(resources["CPU"]), len(chunks))
    rows = [{"number": number, "chunk": pickle.dumps(chunk)} for number, chunk in enumerate(chunks)]
    results = data.from_items(rows, override_num_blocks=len(rows)).map(
        _Actor,
        fn_constructor_args=(
            *(work, partial(_begin, counter)),
            *(synthesizer.info, _weights(synthesizer), cast(Mode, synthesizer.mode)),
        ),
        # One task at a time: a task that waits for a dead actor should go to another one.
        compute=data.ActorPoolStrategy(min_size=1, max_size=most, initial_size=most, max_tasks_in_flight_per_actor=1),
        **({"num_gpus": 1} if gpus else {"num_cpus": 1}),
    )
    try:
        for row in results.iter_rows():
            result: Any = pickle.loads(row["result"])
            if isinstance(result, Lab2PixError):
                raise result
            yield int(row["number"]), result
    except ray.exceptions.RayError as error:
        raise TrainingError(
            f"the work of the Ray cluster ended ({_last_line(error)}); what is finished stays: repeat the command"
        ) from error
    finally:
        ray.kill(counter)


def _start_counter(ray: Any) -> Any:
    """Start an actor that counts how often each task was begun."""

    class Attempts:  # a local class is pickled by value, so its process imports nothing of this package
        def __init__(self) -> None:
            self.begun: dict[int, int] = {}

        def begin(self, task: int) -> int:
            self.begun[task] = self.begun.get(task, 0) + 1
            return self.begun[task]

    return ray.remote(Attempts).options(num_cpus=0).remote()


def _begin(counter: Any, task: int) -> int:
    import ray

    return int(ray.get(counter.begin.remote(task)))


def _weights(synthesizer: Synthesizer) -> dict[str, Tensor]:
    return {name: tensor.cpu() for name, tensor in synthesizer.generator.state_dict().items()}


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip() or type(error).__name__

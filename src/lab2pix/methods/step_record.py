"""Record of one training step of this package, for comparison with vector files; `replay` has two steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.interop.step_vectors import gradient_norms
from lab2pix.methods.base import Method, RandomSource, StepContext


def same_names(network: nn.Module) -> Mapping[str, str]:
    """Return the names of a network's weights, for code of the authors that has the same."""
    return {name: name for name in network.state_dict()}


@contextmanager
def collected_outputs(networks: Mapping[str, nn.Module]) -> Iterator[dict[str, list[Any]]]:
    """Collect the results of all forward passes within the context, in order, by network."""
    outputs: dict[str, list[Any]] = {name: [] for name in networks}

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, inputs, output: outputs[name].append(output)

    hooks = [network.register_forward_hook(hook(name)) for name, network in networks.items()]
    yield outputs
    for handle in hooks:
        handle.remove()


class RecordedRandom(RandomSource):
    """Random source that returns recorded numbers, in their order.

    Args:
        normal: results of `normal`, of any shape with as many elements as requested.
        uniform: results of `uniform`.
        permutation: starts of the permutations.
    """

    def __init__(
        self, normal: Iterable[Tensor] = (), uniform: Iterable[Tensor] = (), permutation: Iterable[Tensor] = ()
    ) -> None:
        super().__init__()
        self._normal, self._uniform, self._permutation = iter(normal), iter(uniform), iter(permutation)

    def normal(self, count: int, *shape: int) -> Tensor:
        """Return the next recorded samples of N(0, 1)."""
        return next(self._normal).float().reshape(count, *shape)

    def uniform(self, count: int, *shape: int) -> Tensor:
        """Return the next recorded samples of U[0, 1)."""
        return next(self._uniform).float().reshape(count, *shape)

    def permutation(self, count: int) -> Tensor:
        """Return the recorded start of the next permutation."""
        return next(self._permutation).long()


class StepRecord:
    """Record of one training step: outputs, losses and gradient norms.

    Args:
        method: the method; its weights change if `update` is set.
        batch: inputs and images.
        update: whether the optimizers of each phase step after it, as in training.
        names: returns the name of every weight of a network in the authors' code, by our name.
        noise: noise of the batch.
        random: random numbers of the step.

    Attributes:
        outputs: results of each network's forward passes, in order, without gradients.
        losses: values by `PHASE.TERM`.
        gradients: per network the global gradient norm, and the norm of each weight by the authors' name.
    """

    def __init__(
        self,
        method: Method,
        batch: Batch,
        *,
        update: bool,
        names: Callable[[nn.Module], Mapping[str, str]] = same_names,
        noise: Tensor | None = None,
        random: RandomSource | None = None,
    ) -> None:
        self.losses: dict[str, float] = {}
        self.gradients: dict[str, tuple[float, dict[str, float]]] = {}
        specs = method.optimizers
        context = StepContext(random=random or RandomSource())
        with collected_outputs(method.networks) as outputs:
            for phase in method.phases:
                terms = phase.backward(batch, noise, context)
                self.losses |= {f"{phase.name}.{name}": value.item() for name, value in terms.items()}
                for spec in (specs[name] for name in phase.optimizers):
                    networks = {name: method.networks[name] for name in spec.networks}
                    for name, network in networks.items():
                        self.gradients[name] = gradient_norms(network, names(network))
                    if update:
                        weights = [weight for network in networks.values() for weight in network.parameters()]
                        adam = torch.optim.Adam(weights, lr=spec.lr, betas=spec.betas, weight_decay=spec.weight_decay)
                        adam.step()
                for network in method.networks.values():
                    network.zero_grad()
        self.outputs: dict[str, list[Any]] = {name: _detached(results) for name, results in outputs.items()}


def _detached(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.detach()
    assert isinstance(output, Sequence)
    return [_detached(part) for part in output]

"""Random streams, each determined by its name and key, on every machine and in any order.

| stream | recipe | key |
|---|---|---|
| initial weights, order of samples, noise of a training step, monitored samples | `stable_seed` | name, seed, step |
| augmentation, partners of unpaired sets | `seeded_generator` | name, seed, epoch, index |
| noise of generated images | `latent_generator` | seed, number of the image |
| drawn scenes, their light, their mirroring | `scene_generator` | seed, index |

Runs, their exact resume and published images depend on these recipes: changing one changes all random numbers of its
streams.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch

__all__ = ["latent_generator", "scene_generator", "seeded_generator", "stable_seed"]


def stable_seed(*key: object) -> int:
    """Return a 63-bit seed from a stream's name and key."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def seeded_generator(*key: object) -> torch.Generator:
    """Return a generator for reading data, from a stream's name and key."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return _generator(int.from_bytes(digest[:7], "big"))


def latent_generator(seed: int, sample: int) -> torch.Generator:
    """Return the generator of the noise of a seed's n-th image (Eq. 21)."""
    digest = hashlib.sha256(f"lab2pix noise {seed} {sample}".encode()).digest()
    return _generator(int.from_bytes(digest[:8], "big") >> 1)


def scene_generator(*key: int) -> np.random.Generator:
    """Return a generator for drawing scenes, from non-negative numbers."""
    import numpy as np

    return np.random.default_rng(key)


def _generator(seed: int) -> torch.Generator:
    import torch

    return torch.Generator().manual_seed(seed)

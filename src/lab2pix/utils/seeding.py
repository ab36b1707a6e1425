"""Counter-based random streams: each is determined by its name and key alone, on every machine and in any order.

| stream | function | key |
|---|---|---|
| initial weights, order of samples, monitored samples, random numbers of a step | `stable_seed` | name, seed, step |
| noise and random numbers of a sample in training | `stable_seed` | name, seed, position in the stream of samples |
| augmentation, random pairing of unpaired sets | `seeded_generator` | name, seed, epoch, index |
| dropout of generated images | `content_seed` | noise of the image |
| split of a labeled photo | `content_seed` | its name |
| noise of generated images | `latent_generator` | seed, sample |
| procedural scenes, their light and flips | `scene_generator` | seed, index |

Exact resume and published images depend on these functions: a change to one changes all numbers of its streams.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


def stable_seed(*key: object) -> int:
    """Return a 63-bit seed for a stream's name and key."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def content_seed(content: bytes) -> int:
    """Return a 63-bit seed that is determined by the bytes of an input."""
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big") >> 1


def seeded_generator(*key: object) -> torch.Generator:
    """Return the generator of a data stream, seeded with its name and key."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return _generator(int.from_bytes(digest[:7], "big"))


def latent_generator(seed: int, sample: int) -> torch.Generator:
    """Return the noise generator of sample `sample` of a seed (Eq. 21)."""
    return _generator(content_seed(f"lab2pix noise {seed} {sample}".encode()))


def scene_generator(*key: int) -> np.random.Generator:
    """Return the generator of a procedural scene, seeded with non-negative integers."""
    import numpy as np

    return np.random.default_rng(key)


def _generator(seed: int) -> torch.Generator:
    import torch

    return torch.Generator().manual_seed(seed)

"""Rules that choose the settings of a run from what data and machine are.

Each rule is a function of `Facts` and of the settings that earlier rules have chosen, and gives a setting, its value
and one reason. `docs/guide/fit.md` has them as a table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lab2pix.utils.text import first_few, plural

SIDES = (64, 128, 256)
"""Short sides of images in pixels, of which one is chosen."""
LEAST_STEPS = 2500
"""Steps that must fit in the time for a larger size."""
WIDE_STEPS = 10_000
"""Steps that must remain for networks of twice the width."""
FEW_PHOTOS = 500
"""Fewer photos than this are memorized by discriminators without DiffAugment."""
RARE_SHARE = 0.1
"""A class in a smaller share of the images is rare."""
CHECKPOINTS = 12
"""Most checkpoints of a run; the painter follows them."""
CHECKPOINT_SECONDS = 60
"""Least seconds from one to the next."""
USED_TIME = 0.9
"""Share of the time that is planned for steps; the rest is for samples, checkpoints and other programs."""
USED_MEMORY = 0.8
"""Share of the free memory that a run may be planned to take."""
MEETING_SHARE = 0.5
"""Share of the classes that a model must know for a run to start from it."""


@dataclass(frozen=True)
class Start:
    """A model that a run can start from.

    Attributes:
        name: name of the model.
        file: its weights.
        classes: names of its classes.
        settings: settings of its generator that a run must share, by key.
        paired: whether its method learns from pairs.
    """

    name: str
    file: str
    classes: tuple[str, ...]
    settings: Mapping[str, Any]
    paired: bool


@dataclass(frozen=True)
class Facts:
    """What the rules look at.

    Attributes:
        paired: whether the photo of each label map is known.
        photos: photos to train on.
        height, width: median size of the photos in pixels.
        classes: names of the classes.
        rare: names of the classes that are in few of the label maps.
        device: `cpu`, `cuda` or `mps`.
        cores: processors.
        bfloat16: whether the device computes bfloat16 in hardware.
        seconds: seconds for training.
        step_seconds: seconds of a step of the narrowest networks, per 4 images of 64x64 pixels, measured here; infinity
            before it is measured, which gives the smallest plan.
        starts: installed models, the preferred first.
    """

    paired: bool
    photos: int
    height: int
    width: int
    classes: tuple[str, ...]
    rare: tuple[str, ...]
    device: str
    cores: int
    bfloat16: bool
    seconds: float
    step_seconds: float
    starts: tuple[Start, ...] = ()


@dataclass(frozen=True)
class Choice:
    """A setting, as `data.size`, with its value and why it was chosen."""

    key: str
    value: Any
    reason: str


Chosen = Mapping[str, Any]
"""Settings that earlier rules, or the user, have chosen, by key."""
Rule = Callable[[Facts, Chosen], Choice | None]


# --- the rules ------------------------------------------------------------------------------------------------------


def preset(paired: bool) -> Choice:
    """Choose the recipe, and with it the method."""
    if paired:
        return Choice("base", "v2-small", "label maps and photos are pairs, which Lab2Pix-V2 learns from")
    return Choice("base", "v1-small", "label maps and photos are no pairs; Lab2Pix-V1 learns without them")


def start(facts: Facts, chosen: Chosen) -> Choice | None:
    """Choose an installed model to start from, if it knows at least half of the classes."""
    for model in facts.starts:
        known = [name for name in facts.classes if name in model.classes]
        if model.paired == facts.paired and len(known) >= MEETING_SHARE * len(facts.classes):
            return Choice(
                "train.init_from",
                model.file,
                f"the model '{model.name}' knows {len(known)} of the {plural(len(facts.classes), 'class')}: "
                f"{first_few(known)}",
            )
    return None


def precision(facts: Facts, chosen: Chosen) -> Choice:
    """Choose the precision by what the hardware computes."""
    if facts.bfloat16:
        return Choice("train.precision", "bf16", "this device multiplies in bfloat16, which is faster")
    return Choice("train.precision", "fp32", "this device has no bfloat16 in hardware, and emulating it is slow")


def batch_size(facts: Facts, chosen: Chosen) -> Choice:
    """Choose the batch size by device."""
    if facts.device == "cuda":
        return Choice("train.batch_size", 8, "a GPU is not busy with less")
    return Choice("train.batch_size", 4, "a small batch makes more steps in the same time, which works better here")


def size(facts: Facts, chosen: Chosen) -> Choice:
    """Choose the largest size of which enough steps fit in the time, no larger than the photos."""
    short, long = sorted((facts.height, facts.width))
    fitting = [side for side in SIDES if side <= max(short, SIDES[0])]
    stretch = min(2.0, long / short)

    def sides(side: int) -> tuple[int, int]:
        # Multiples of half the short side, so that the generator starts from whole pixels.
        other = max(side, round(stretch * side / (side // 2)) * (side // 2))
        return (side, other) if facts.height <= facts.width else (other, side)

    enough = [side for side in fitting if steps_in(facts, chosen, sides(side)) >= LEAST_STEPS]
    best = max(enough, default=fitting[0])
    count = int(steps_in(facts, chosen, sides(best)))
    value = list(sides(best))
    if best == fitting[-1]:
        why = (
            f"the photos are {facts.height}x{facts.width}" if best < SIDES[-1] else "it is the largest that is planned"
        )
        return Choice("data.size", value, f"{why}, and some {_rounded(count)} steps fit in the time")
    above = sides(fitting[fitting.index(best) + 1])
    more = int(steps_in(facts, chosen, above))
    return Choice(
        "data.size",
        value,
        f"some {_rounded(count)} steps fit in the time; at {above[0]}x{above[1]} only {_rounded(more)} would, and "
        f"{LEAST_STEPS:,} are needed",
    )


def upsamplings(facts: Facts, chosen: Chosen) -> Choice:
    """Choose the number of upsamplings, so that the short side starts from two pixels."""
    count = max(5, round(math.log2(min(chosen["data.size"]) / 2)))
    return Choice("generator.num_upsamples", count, f"the short side grows from 2 pixels to {min(chosen['data.size'])}")


def width(facts: Facts, chosen: Chosen) -> Choice:
    """Choose the width of the generator: wider networks for much time."""
    if not facts.paired:
        return Choice("generator.width", 8, "without pairs, many steps of narrow networks work better than wide ones")
    steps = steps_in(facts, chosen, chosen["data.size"])
    factor = next((factor for factor in (4, 2) if steps / factor**2 >= WIDE_STEPS), 1)
    if factor == 1:
        return Choice("generator.width", 16, f"wider networks need time for {4 * WIDE_STEPS:,} steps of this width")
    return Choice(
        "generator.width", 16 * factor, f"in this time, networks of {factor} times the width of 16 make enough steps"
    )


def discriminator_width(facts: Facts, chosen: Chosen) -> Choice:
    """Choose the width of the discriminators: that of the generator."""
    return Choice("discriminator.width", chosen["generator.width"], "discriminators as wide as the generator")


def flip(facts: Facts, chosen: Chosen) -> Choice:
    """Choose whether images are flipped."""
    return Choice("data.flip", True, "a mirrored photo is a photo, too; set it to false for writing")


def repeat_threshold(facts: Facts, chosen: Chosen) -> Choice:
    """Choose how often images of rare classes are drawn."""
    if not facts.rare:
        return Choice("data.repeat_threshold", 0.0, f"each class is in {RARE_SHARE:.0%} of the label maps or more")
    have, them = ("is", "its") if len(facts.rare) == 1 else ("are", "their")
    return Choice(
        "data.repeat_threshold",
        RARE_SHARE,
        f"{first_few(facts.rare)} {have} in less than {RARE_SHARE:.0%} of the label maps, so {them} images are drawn "
        "more often",
    )


def augmentation(facts: Facts, chosen: Chosen) -> Choice | None:
    """Choose DiffAugment for few photos; Lab2Pix-V1 does not have it."""
    if not facts.paired:
        return None
    if facts.photos < FEW_PHOTOS:
        return Choice(
            "augment.discriminator",
            ["color", "translation", "cutout"],
            f"discriminators would memorize {plural(facts.photos, 'photo')}",
        )
    return Choice("augment.discriminator", [], f"{plural(facts.photos, 'photo')} are too many to memorize")


def workers(facts: Facts, chosen: Chosen) -> Choice:
    """Choose the number of data loader processes."""
    if facts.device == "cpu":
        return Choice("data.workers", 0, "on a CPU, processes that load would compete with the step")
    count = max(0, min(4, facts.cores - 1))
    return Choice("data.workers", count, f"{plural(facts.cores, 'processor')} can load while the GPU computes")


RULES: tuple[Rule, ...] = (
    *(start, precision, batch_size, size, upsamplings, width, discriminator_width),
    *(flip, repeat_threshold, augmentation, workers),
)
"""The rules in order; `preset` is before them, `duration` after them."""


def duration(seconds: float, step_seconds: float) -> Iterator[Choice]:
    """Yield the number of steps, and when checkpoints and samples are due.

    Args:
        seconds: seconds for training.
        step_seconds: seconds of a step with the chosen settings, measured here.
    """
    steps = max(1, int(USED_TIME * seconds / step_seconds))
    yield Choice(
        "train.steps", steps, f"{seconds / 60:.3g} minutes at {step_seconds:.2g} s a step, with a tenth to spare"
    )
    every = min(steps, max(steps // CHECKPOINTS, math.ceil(CHECKPOINT_SECONDS / step_seconds)))
    yield Choice("checkpoint.every", every, f"every {every * step_seconds / 60:.2g} min, for the painter to follow")
    yield Choice("monitor.sample_every", every, "a sheet of samples with each checkpoint")


def smaller(chosen: Chosen, given: Collection[str], needed: int, free: int) -> Choice | None:
    """Return the next change of a plan that takes too much memory, or None if nothing is left to change.

    Args:
        chosen: settings by key.
        given: keys that the user has set.
        needed: memory that the plan takes, in bytes.
        free: free memory in bytes.
    """
    why = f"{needed / 2**30:.1f} GiB of the {free / 2**30:.1f} GiB of free memory would be needed for more"
    batch, sides = chosen["train.batch_size"], chosen["data.size"]
    if batch > 2 and "train.batch_size" not in given:
        return Choice("train.batch_size", batch // 2, why)
    if min(sides) > SIDES[0] and "data.size" not in given:
        return Choice("data.size", [side // 2 for side in sides], why)
    return None


def apply(facts: Facts, given: Chosen) -> Iterator[Choice]:
    """Yield the choice of each rule; settings that the user has given replace those of rules.

    Args:
        facts: what the rules look at.
        given: settings of the user, by key.
    """
    chosen = dict(given)
    for rule in RULES:
        found = rule(facts, chosen)
        for choice in [found, *_of_start(facts, found)] if found is not None else []:
            if choice.key not in chosen:
                chosen[choice.key] = choice.value
                yield choice


def _of_start(facts: Facts, choice: Choice) -> Iterator[Choice]:
    """Yield the settings that a run shares with the model that it starts from."""
    for model in facts.starts:
        if choice.key == "train.init_from" and choice.value == model.file:
            for key, value in model.settings.items():
                yield Choice(key, value, f"as in '{model.name}', whose weights must fit")


# --- their arithmetic -----------------------------------------------------------------------------------------------


def steps_in(facts: Facts, chosen: Chosen, sides: Sequence[int]) -> float:
    """Return the steps that fit in the time at a size, at the preset's width; cost grows with the pixels of a batch."""
    return USED_TIME * facts.seconds / (facts.step_seconds * cost(sides, chosen["train.batch_size"]))


def cost(sides: Sequence[int], batch: int) -> float:
    """Return the pixels of a batch, relative to 4 images of 64x64."""
    return sides[0] * sides[1] * batch / (64 * 64 * 4)


def _rounded(count: int) -> str:
    """Return a number with two significant digits."""
    return f"{int(float(f'{count:.2g}')):,}"

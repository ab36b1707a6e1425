"""Plan of a run: applies the rules to fingerprints, measures what the machine makes of them, and writes a config."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from lab2pix.config.schema import RunConfig
from lab2pix.data.build import build_dataset
from lab2pix.errors import ConfigError, Lab2PixError, OutputError
from lab2pix.fit import rules
from lab2pix.fit.dataset import Dataset
from lab2pix.fit.fingerprint import DataFingerprint, MachineFingerprint
from lab2pix.fit.rules import Choice, Facts, Start
from lab2pix.inference import weights
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import build_method, get_method
from lab2pix.recipes import load_config
from lab2pix.training.estimate import estimate_run
from lab2pix.training.run_folder import flatten
from lab2pix.utils.hardware import peak_resident
from lab2pix.utils.sequences import evenly_spaced

_LEAST_STEPS = 10
"""Steps without which a checkpoint is not worth its name."""
_SAMPLES_READ = 8
_SPARE_DISK = 100 * 2**20


@dataclass(frozen=True)
class Plan:
    """Chosen settings.

    Attributes:
        choices: every setting with its reason, in the order of the file; the first one is the preset.
    """

    choices: tuple[Choice, ...]

    def config(self) -> RunConfig:
        """Return the configuration of the run."""
        settings = {choice.key: choice.value for choice in self.choices if choice.key != "base"}
        return load_config(self.choices[0].value, [f"{key}={_text(value)}" for key, value in settings.items()])

    def to_yaml(self) -> str:
        """Return the settings as YAML for `load_config`, with the reasons as comments."""
        tree: dict[str, Any] = {}
        for choice in self.choices:
            *sections, last = choice.key.split(".")
            reduce(lambda node, part: node.setdefault(part, {}), sections, tree)[last] = choice
        return "\n".join(["# Chosen by `lab2pix fit`, with one reason each.", *_lines(tree)]) + "\n"


def _text(value: Any) -> str:
    return str(value) if isinstance(value, str) else json.dumps(value)


def _lines(tree: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    for key, node in tree.items():
        if isinstance(node, Choice):
            yield f"{indent}{key}: {json.dumps(node.value, ensure_ascii=False)}  # {node.reason}"
        else:
            yield f"{indent}{key}:"
            yield from _lines(node, indent + "  ")


@dataclass(frozen=True)
class Measurement:
    """What a step of a configuration takes here.

    Attributes:
        seconds: seconds, reading the samples included; infinity if it was not made, as the memory does not suffice.
        memory: peak memory in bytes.
        checkpoint: size of a checkpoint in bytes.
    """

    seconds: float
    memory: int
    checkpoint: int


def measure(config: RunConfig, machine: MachineFingerprint) -> Measurement:
    """Measure a few steps with random inputs, and read some samples; counts instead where the memory is too small."""
    space = LabelSpace.load(config.data.label_space)
    # Counted first: a step that does not fit would end the process before it is measured.
    counted = estimate_run(build_method(config, space, pretrained=False), device=None, gpu="t4")
    base = peak_resident() if machine.device.type == "cpu" else 0
    if counted.memory + base > rules.USED_MEMORY * machine.memory:
        return Measurement(math.inf, counted.memory + base, counted.checkpoint)
    found = estimate_run(build_method(config, space, pretrained=False), device=str(machine.device), gpu=None)
    if found.seconds is None or found.memory > rules.USED_MEMORY * machine.memory:
        return Measurement(math.inf, found.memory, found.checkpoint)
    reading = _sample_seconds(config, space) * config.train.batch_size if machine.device.type == "cpu" else 0.0
    return Measurement(found.seconds + reading, found.memory, found.checkpoint)


def _sample_seconds(config: RunConfig, space: LabelSpace) -> float:
    """Return the seconds to read and transform a sample."""
    dataset = build_dataset(config.data, "train", space, config.seed, paired=get_method(config.method).paired)
    places = evenly_spaced(len(dataset), _SAMPLES_READ)
    began = time.perf_counter()
    for index in places:
        dataset[(0, index)]
    return (time.perf_counter() - began) / len(places)


def installed_starts() -> tuple[Start, ...]:
    """Return the installed models that learned from photographs; drawn scenes are no start for photos."""
    found = []
    for name, file in weights.shipped_models().items():
        with suppress(Lab2PixError):  # of another version
            info = weights.ModelInfo.read(file.with_name(weights.CONFIG_FILE))
            if info.config.data.format == "scenes":
                continue
            settings = dict(flatten({"generator": info.config.model_dump(mode="json").get("generator", {})}))
            settings.pop("generator.num_upsamples", None)
            paired = get_method(info.config.method).paired
            found.append(Start(name, str(file), info.label_space.names, settings, paired))
    return tuple(found)


def make_plan(
    data: Dataset,
    fingerprint: DataFingerprint,
    machine: MachineFingerprint,
    space: LabelSpace,
    where: str,
    seconds: float,
    overrides: Sequence[str],
    name: str,
) -> Plan:
    """Choose all settings, and measure what they take.

    Args:
        data: the data.
        fingerprint: what is in it.
        machine: what the run can use.
        space: label space.
        where: its name or file.
        seconds: seconds for the trial steps and for training.
        overrides: `key=value` of the user, which replace what the rules choose; `base=PRESET` is one of them.
        name: name of the run.

    Raises:
        ConfigError: an override is wrong, no time for a checkpoint, or no memory for the smallest networks.
        OutputError: no room for checkpoints.
    """
    began = time.monotonic()
    bases = [text.removeprefix("base=") for text in overrides if text.startswith("base=")]
    own = tuple(text for text in overrides if not text.startswith("base="))
    base = bases[-1] if bases else "v2-small" if data.paired else "v1-small"
    fixed = {**data.settings, "data.label_space": where}
    draft = load_config(base, [*(f"{key}={value}" for key, value in fixed.items()), *own])
    settings = dict(flatten(draft.model_dump(mode="json")))
    given = {key: settings.get(key) for key in (text.partition("=")[0] for text in own)}
    first = [
        Choice("base", base, "given") if bases else rules.preset(data.paired),
        Choice("name", name, "name of the folder"),
        *(Choice(key, value, _reason_of_data(key, data)) for key, value in fixed.items() if key not in given),
        *(Choice(key, value, "given") for key, value in given.items()),
    ]
    facts = Facts(
        paired=data.paired, photos=fingerprint.photos, height=fingerprint.height, width=fingerprint.width,
        classes=space.names, rare=fingerprint.rare, device=machine.device.type, cores=machine.cores,
        bfloat16=machine.bfloat16, seconds=seconds, step_seconds=math.inf, starts=installed_starts(),
    )  # fmt: skip

    def choose(facts: Facts) -> dict[str, Choice]:
        ruled = (choice for choice in rules.apply(facts, given) if choice.key in settings)
        return {choice.key: choice for choice in [*first, *ruled]}

    smallest, found = _fit_memory(choose(facts), given, facts, machine)
    size, train = smallest.config().data.size, smallest.config().train
    facts = replace(facts, step_seconds=_timed(found, seconds).seconds / rules.cost(size, train.batch_size))
    chosen = choose(facts)
    plan = Plan(tuple(_sorted(chosen.values())))
    if plan.config() != smallest.config():
        plan, found = _fit_memory(chosen, given, facts, machine)
        _timed(found, seconds)
    needed = (plan.config().checkpoint.keep + 1) * found.checkpoint + _SPARE_DISK
    if needed > machine.disk:
        raise OutputError(
            f"the disk has {machine.disk / 2**20:,.0f} MiB free, but the checkpoints take {needed / 2**20:,.0f} MiB; "
            "make room, or choose another --out"
        )
    left = seconds - (time.monotonic() - began)
    length = [choice for choice in rules.duration(left, found.seconds) if choice.key not in given]
    return Plan(tuple(_sorted([*plan.choices, *length])))


def _reason_of_data(key: str, data: Dataset) -> str:
    reasons = {
        "data.format": "files are matched by name",
        "data.val_split": f"held out: {data.note}",
        "data.train_split": "all others",
        "data.label_space": "the classes of the label maps",
    }
    return reasons.get(key, "the folder")


def _sorted(choices: Iterable[Choice]) -> list[Choice]:
    """Return the choices by section, in the order of the first one of each."""
    listed = list(choices)
    sections = list(dict.fromkeys(choice.key.partition(".")[0] for choice in listed))
    return sorted(listed, key=lambda choice: sections.index(choice.key.partition(".")[0]))


def _fit_memory(
    chosen: dict[str, Choice], given: Collection[str], facts: Facts, machine: MachineFingerprint
) -> tuple[Plan, Measurement]:
    """Measure the plan, and make it smaller until it fits into the memory.

    Raises:
        ConfigError: the smallest one does not fit.
    """
    while True:
        plan = Plan(tuple(_sorted(chosen.values())))
        found = measure(plan.config(), machine)
        if found.memory <= rules.USED_MEMORY * machine.memory:
            return plan, found
        values = {choice.key: choice.value for choice in chosen.values()}
        smaller = rules.smaller(values, given, found.memory, machine.memory)
        if smaller is None:
            raise _no_memory(found, machine)
        chosen[smaller.key] = smaller
        if smaller.key == "data.size" and "generator.num_upsamples" in chosen:
            again = rules.upsamplings(facts, {"data.size": smaller.value})
            chosen |= {} if again.key in given else {again.key: again}


def _no_memory(found: Measurement, machine: MachineFingerprint) -> ConfigError:
    return ConfigError(
        f"training takes {found.memory / 2**30:.1f} GiB of memory, but of the {machine.memory / 2**30:.1f} GiB free "
        f"only {rules.USED_MEMORY:.0%} may be planned; end other programs, or give smaller networks, such as "
        "generator.width=8"
    )


def _timed(found: Measurement, seconds: float) -> Measurement:
    """Return a measurement, or raise ConfigError where not even a checkpoint can be reached."""
    if seconds * rules.USED_TIME < _LEAST_STEPS * found.seconds:
        more = (_LEAST_STEPS * found.seconds / rules.USED_TIME - seconds) / 60
        raise ConfigError(
            f"there is no time for a single checkpoint, as a step takes {found.seconds:.2g} s here; give "
            f"{max(1, math.ceil(more))} minutes more"
        )
    return found

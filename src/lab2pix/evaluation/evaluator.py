"""Evaluation of folders of images, whatever made them: one pass over the files, one protocol, one report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import distributed as dist

from lab2pix.errors import ConfigError, DataError, OutputError
from lab2pix.evaluation.accumulator import MetricAccumulator, Networks
from lab2pix.evaluation.features import FeatureNetwork
from lab2pix.evaluation.loading import ReadingLog, read_items, read_photos
from lab2pix.evaluation.metrics.distribution import FeatureMoments
from lab2pix.evaluation.metrics.segmentation import SegmentationScores
from lab2pix.evaluation.metrics.statistics import check_statistics, load_statistics, save_statistics
from lab2pix.evaluation.pairing import Item, Matches, is_plain, listed, pair_files
from lab2pix.evaluation.protocol import RESIZE, Protocol, load_networks, protocol_facts
from lab2pix.evaluation.report import Report, ReportFiles, ReportImage, check_writable
from lab2pix.labels.space import LabelSpace
from lab2pix.utils.distributed import DistributedContext, init_distributed

STATISTICS_SUFFIX = ".safetensors"
_SHOWN = 4


def evaluate_folders(
    generated: Path | str,
    real: Path | str | None = None,
    protocol: Protocol | None = None,
    *,
    labels: Path | str | None = None,
    label_space: LabelSpace | str | None = None,
    samples: int | None = None,
    unpaired: bool = False,
    format: str = "folder",
    split: str | None = None,
    save_stats: Path | str | None = None,
    name: str | None = None,
    device: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Evaluate a folder of generated images.

    Under torchrun each process takes its share of them; all processes return the same report.

    Args:
        generated: the images; with several samples `NAME_0`, `NAME_1`, ... for each label map `NAME`.
        real: photos (a folder or a dataset's root), or statistics that `save_stats` wrote.
        protocol: networks, size, batch size and seed; None: the defaults.
        labels: label maps (a folder or a dataset's root).
        label_space: label space of `labels`.
        samples: images per label map; None: as the names of the images tell.
        unpaired: whether the names of photos and images are unrelated.
        format: folder format of photos and label maps; see `lab2pix.utils.registry.DATASET_FORMATS`.
        split: part of the dataset; None: all of it.
        save_stats: file to which the photos' statistics are written.
        name: name of the method in the report; None: the folder's.
        device: `cpu`, `cuda` or `mps`; None: the best one available.
        on_progress: called with the number of finished label maps and their total.

    Raises:
        ConfigError: conflicting settings, or an unknown network.
        DataError, LabelError: files are missing, do not fit or cannot be read.
        OutputError: `save_stats` exists already.
        WeightsError: weights are missing or have another hash.
    """
    protocol = protocol or Protocol()
    folders = _Folders(Path(generated), _path(real), _path(labels), format, split, samples, unpaired)
    space = LabelSpace.load(label_space) if isinstance(label_space, str) else label_space
    _check(folders, protocol, space, save_stats)
    matches = pair_files(
        folders.generated,
        None if folders.statistics else folders.real,
        folders.labels if protocol.segmenter is not None else None,
        samples=samples,
        format=format,
        split=split,
        unpaired=unpaired,
        allow_missing=protocol.allow_missing,
    )
    folders = replace(folders, samples=matches.samples)
    networks = load_networks(protocol, space)
    known = None if folders.statistics is None else _Statistics.load(folders.statistics, networks)
    with init_distributed(device) as distributed:
        networks.to(distributed.device)
        accumulator, log = MetricAccumulator(networks, matches.samples, **protocol.scoring), ReadingLog()
        _update(accumulator, log, matches, space, protocol, distributed, on_progress)
        gather(accumulator, log, distributed)
        return distributed.run_on_main(
            lambda: _conclude(accumulator, log, matches, folders, known, space, protocol, save_stats, name, distributed)
        )


def _path(given: Path | str | None) -> Path | None:
    return None if given is None else Path(given)


@dataclass(frozen=True)
class _Folders:
    """The arguments that say which files to compare."""

    generated: Path
    real: Path | None
    labels: Path | None
    format: str
    split: str | None
    samples: int | None
    unpaired: bool

    @property
    def statistics(self) -> Path | None:
        """File of statistics in place of photos; None where there are photos or neither."""
        return self.real if self.real is not None and self.real.suffix == STATISTICS_SUFFIX else None


def _check(folders: _Folders, protocol: Protocol, space: LabelSpace | None, save_stats: Path | str | None) -> None:
    if folders.samples is not None and folders.samples < 1:
        raise ConfigError(f"--samples is {folders.samples} but must be 1 or more")
    if (folders.labels is None) != (space is None):
        raise ConfigError("--labels and --label-space belong together: give both, or neither")
    if folders.labels is not None and protocol.segmenter is None:
        raise ConfigError(
            "label maps are compared with the predictions of a segmenter: add --segmenter, or omit --labels"
        )
    if protocol.segmenter is not None and folders.labels is None:
        raise ConfigError("a segmenter's predictions are compared with label maps: add --labels and --label-space")
    if folders.real is None and protocol.segmenter is None and folders.samples in (None, 1):
        raise ConfigError("there is nothing to compare the images with: add --real, or --labels with --segmenter")
    _check_options(folders, protocol)
    if folders.statistics is not None and (len(protocol.features) != 1 or save_stats is not None):
        raise ConfigError(
            "statistics are those of one feature network: name that one with --features, and omit --save-stats"
        )
    if save_stats is not None:
        if folders.real is None or len(protocol.features) != 1:
            raise ConfigError("--save-stats writes the statistics of --real for one feature network: name both")
        if Path(save_stats).suffix != STATISTICS_SUFFIX:
            raise OutputError(f"--save-stats is {save_stats} but must end in {STATISTICS_SUFFIX}")
        if Path(save_stats).exists():
            raise OutputError(f"{save_stats} is there already; choose another name for the statistics, or remove it")
        check_writable(Path(save_stats))


def _check_options(folders: _Folders, protocol: Protocol) -> None:
    """Refuse options without effect."""
    paired = folders.real is not None and folders.statistics is None and not folders.unpaired
    protocol.check()
    if protocol.lpips is not None and not paired and folders.samples in (None, 1):
        raise ConfigError(
            "--lpips compares images with photos of the same names: give these as --real, or omit --lpips"
        )
    photos = folders.real is not None and folders.statistics is None
    if not photos and folders.labels is None and (folders.split is not None or folders.format != "folder"):
        given = "--format" if folders.split is None else "--split"
        raise ConfigError(f"{given} has no effect without --real or --labels; omit it")
    plain = folders.real is None or is_plain(folders.real)
    if folders.split is not None and folders.format == "folder" and plain and folders.labels is None:
        raise ConfigError(
            f"--split is a part of a dataset, but {folders.real} is a plain folder of photos; name the part's folder "
            "instead"
        )


def _update(
    accumulator: MetricAccumulator,
    log: ReadingLog,
    matches: Matches,
    space: LabelSpace | None,
    protocol: Protocol,
    distributed: DistributedContext,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    """Accumulate this process' share."""
    items = matches.items[distributed.rank :: distributed.size]
    total, done = len(items) + len(matches.loose) // distributed.size, 0
    how: dict[str, Any] = {
        **{"size": protocol.size, "batch_size": protocol.batch_size},
        **{"skip_broken": protocol.skip_broken, "alpha": protocol.alpha},
    }
    segmenter = accumulator.networks.segmenter
    label_size = None if segmenter is None else segmenter.label_size
    for loaded in read_items(items, space, log, **how, label_size=label_size):
        accumulator.update(loaded.names, loaded.samples, loaded.real, loaded.label)
        done += len(loaded.names)
        if on_progress is not None:
            on_progress(done, total)
    loose = dict(list(matches.loose.items())[distributed.rank :: distributed.size])
    size = protocol.size or (_common_size(log, distributed) if matches.loose else None)
    for names, images in read_photos(loose, log, **{**how, "size": size}):
        accumulator.update_real(names, images)
        done += len(names)
        if on_progress is not None:
            on_progress(min(done, total), total)


def _common_size(log: ReadingLog, distributed: DistributedContext) -> tuple[int, int] | None:
    """Return the size of all images, to which unpaired photos are resized; None where sizes differ."""
    seen: list[set[tuple[int, int]]] = [set(log.sizes)]
    if distributed.size > 1:
        seen = [set() for _ in range(distributed.size)]
        dist.all_gather_object(seen, set(log.sizes))
    sizes = set().union(*seen)
    return sizes.pop() if len(sizes) == 1 else None


def gather(accumulator: MetricAccumulator, log: ReadingLog, distributed: DistributedContext) -> None:
    """Merge all processes' statistics into those of process 0."""
    if distributed.size == 1:
        return
    parts: list[Any] | None = [None] * distributed.size if distributed.main else None
    dist.gather_object((accumulator.state(), log), parts, dst=0)
    for state, other in (parts or [])[1:]:
        accumulator.merge(state)
        log.merge(other)


def _conclude(
    accumulator: MetricAccumulator,
    log: ReadingLog,
    matches: Matches,
    folders: _Folders,
    known: _Statistics | None,
    space: LabelSpace | None,
    protocol: Protocol,
    save_stats: Path | str | None,
    name: str | None,
    distributed: DistributedContext,
) -> Report:
    """Compute the scores and build the report."""
    if not log.sizes:
        raise DataError(f"no image in {folders.generated} could be read; {log.broken[0]['reason']}")
    sizes = sorted(log.sizes)
    size = list(protocol.size or sizes[0]) if len(sizes) == 1 or protocol.size else "various"
    if known is not None:
        check_statistics(known.meta, {"size": size}, known.file)
    moments = None if known is None else {accumulator.networks.features[0].name: known.moments}
    sources = _sources(matches, folders, known, space, log)
    report = build_report(
        accumulator, log, name or folders.generated.resolve().name, sources, protocol, size, distributed, space, moments
    )
    if save_stats is not None:
        view = {**_comparability_key(accumulator.networks.features[0]), "size": size}
        photos = {key: sources["real"][key] for key in ("count", "list_sha256")}
        save_statistics(Path(save_stats), accumulator.real[view["features"]], {**view, **photos})
    items = {item.name: item for item in matches.items}
    report.show(lambda key: _files(items[key]))
    report.broken = sorted(log.broken, key=lambda item: item["file"])
    report.unmatched = matches.unmatched
    if folders.real is None:
        report.notes = log.notes()
    return report


def build_report(
    accumulator: MetricAccumulator,
    log: ReadingLog,
    name: str,
    sources: dict[str, Any],
    protocol: Protocol,
    size: Any,
    distributed: DistributedContext,
    space: LabelSpace | None,
    real: dict[str, FeatureMoments] | None = None,
) -> Report:
    """Compute the scores and return them with their protocol.

    Args:
        accumulator: accumulator of all images.
        log: record of the sizes.
        name: name of the method.
        sources: the compared data, for the protocol.
        protocol: the protocol.
        size: height and width, for the protocol.
        distributed: the processes.
        space: label space of the label maps.
        real: statistics in place of photos; see `MetricAccumulator.compute`.
    """
    return Report(
        name=name,
        scores=accumulator.compute(real),
        protocol={**sources, **protocol_facts(accumulator, log, protocol, size, distributed)},
        **_classes(accumulator),
        pictures=_ranked(accumulator),
        notes=[*accumulator.notes(), *log.notes()],
        space=space,
    )


def _classes(accumulator: MetricAccumulator) -> dict[str, Any]:
    """Return the scores of each class, over all sample sets."""
    if not accumulator.pixels:
        return {}
    joined = SegmentationScores(accumulator.pixels[0].classes)
    for part in accumulator.pixels:
        joined.merge(part)
    return {"classes": joined.per_class(), "left_out": joined.left_out()}


@dataclass(frozen=True)
class _Statistics:
    """Statistics in place of photos, with the description of how they were computed."""

    file: Path
    moments: FeatureMoments
    meta: dict[str, Any]

    @classmethod
    def load(cls, file: Path, networks: Networks) -> _Statistics:
        """Read a file, and check that it belongs to the feature network of this evaluation."""
        moments, meta = load_statistics(file)
        check_statistics(meta, _comparability_key(networks.features[0]), file)
        return cls(file, moments, meta)


def _comparability_key(network: FeatureNetwork) -> dict[str, Any]:
    """Return everything but the size that must be equal for two sets' statistics to be comparable."""
    return {"features": network.name, "network": network.describe(), "resize": RESIZE}


def _ranked(accumulator: MetricAccumulator) -> dict[str, Any]:
    """Return the best, median and worst images of the first sample set, without their files."""
    ranked = sorted((pair for pair in accumulator.ranking if pair[1] == pair[1]), key=lambda pair: (-pair[1], pair[0]))
    if not ranked:
        return {}
    middle = max(0, len(ranked) // 2 - _SHOWN // 2)
    groups = {"best": ranked[:_SHOWN], "median": ranked[middle : middle + _SHOWN], "worst": ranked[::-1][:_SHOWN]}
    return {
        "by": accumulator.ranked_by,
        **{key: [ReportImage(*pair, "") for pair in group] for key, group in groups.items()},
    }


def _files(item: Item) -> ReportFiles:
    real = None if item.real is None or item.real.form != "files" else str(item.real.image)
    label = None if item.label is None or item.label.form != "files" else str(item.label.label)
    return {"file": str(item.generated[0]), "real": real, "label": label}


def _sources(
    matches: Matches,
    folders: _Folders,
    known: _Statistics | None,
    space: LabelSpace | None,
    log: ReadingLog,
) -> dict[str, Any]:
    """Return the compared folders; counts and hashes leave out files that cannot be read."""
    broken = {(item["of"], item["name"]) for item in log.broken}
    names = [item.name for item in matches.items if ("label maps", item.name) not in broken]
    real: dict[str, Any] | None = None
    if known is not None:
        real = {"statistics": str(known.file), **{key: known.meta.get(key) for key in ("count", "list_sha256")}}
    elif folders.real is not None:
        loose = [name for name in matches.loose if ("photos", name) not in broken]
        photos = loose if folders.unpaired else names
        real = {"folder": str(folders.real), **listed(photos)}
    labels: dict[str, Any] | None = None
    if folders.labels is not None:
        labels = {"folder": str(folders.labels), "label_space": space and space.name, **listed(names)}
    return {
        "generated": {"folder": str(folders.generated), **listed(names)},
        "real": real,
        "labels": labels,
        "sample_sets": folders.samples,
        "paired": bool(real and not folders.unpaired and folders.statistics is None),
        "format": {"name": folders.format, "split": folders.split},
    }

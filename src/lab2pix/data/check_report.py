"""Report of a dataset's validation, as text and as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lab2pix.utils.text import first_few

_SHOWN = 20  # classes, and lines per problem, in a text report; JSON has all

_KINDS = {
    "unmatched": "without partner",
    "doubles": "sharing a name with another file",
    "unreadable": "unreadable",
    "wrong_labels": "with ids or colors outside the label space",
    "sizes_disagree": "of another size than their partner",
    "dim": "read as nearly black",
}


@dataclass
class DatasetReport:
    """Result of `check_dataset`.

    Attributes:
        root: folder of the dataset.
        format: name of the format.
        label_space: name of the label space; empty for photos alone.
        paired: whether label maps and photos are pairs.
        counts: pairs per split (or first sub-folder); label maps and photos of unpaired data.
        sizes: label maps or source images per size, height x width.
        kinds: number of files by what they are, for `label maps`, `source images`, `photos`, `instance maps`.
        examples: one file of each kind that is not the most frequent one.
        class_shares: fraction of all readable pixels per class, including `unknown` if the label space has it.
        notes: what may be wrong: differences within the set, transparency.
        passed_over: files and folders that do not count, with the likely cure.
        hints: what may be wrong with the names of files without a partner.
        unmatched: files without a partner.
        doubles: files that share their name with another file.
        unreadable: one message per file that is damaged, truncated or not an image.
        wrong_labels: one message per label map with ids or colors outside the label space.
        sizes_disagree: one message per pair whose parts differ in size.
        dim: one message per photo of 16 bits that uses a part of them alone.
    """

    root: str
    format: str
    label_space: str
    paired: bool = True
    counts: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, dict[str, int]] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    class_shares: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)
    doubles: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    wrong_labels: list[str] = field(default_factory=list)
    sizes_disagree: list[str] = field(default_factory=list)
    dim: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether no problems were found."""
        return not any(getattr(self, kind) for kind in _KINDS)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"ok": self.ok, **asdict(self)}

    def __str__(self) -> str:
        """Return the report as text."""
        counts = ", ".join(f"{name} {count}" for name, count in self.counts.items())
        lines = [
            f"{self.root}: {sum(self.counts.values())} {'pairs' if self.paired else 'files'}, format '{self.format}'"
            + (f", label space '{self.label_space}'" if self.label_space else ""),
            f"  {'pairs' if self.paired else 'files'}    {counts}",
        ]
        sizes = first_few([f"{size} ({count})" for size, count in self.sizes.items()], 8)
        lines += [f"  sizes    {sizes}, height x width"] if sizes else []
        for role, kinds in self.kinds.items():
            for kind, count in kinds.items():
                example = self.examples.get(f"{role}: {kind}")
                lines.append(f"  {count:7d}  {role}: {kind}{'' if example is None else f', such as {example}'}")
        present = sorted(((share, name) for name, share in self.class_shares.items() if share), reverse=True)
        lines += [f"  {share:7.2%}  {name}" for share, name in present[:_SHOWN]]
        if len(present) > _SHOWN:
            lines.append(f"  {sum(share for share, _ in present[_SHOWN:]):7.2%}  {len(present) - _SHOWN} more classes")
        absent = [name for name, share in self.class_shares.items() if not share]
        if absent:
            lines.append(f"  never    {first_few(absent, 12)}")
        for kind, words in _KINDS.items():
            found = getattr(self, kind)
            if found:
                lines += ["", f"{len(found)} {words}:", *_listed(found)]
                lines += [f"  {hint}" for hint in self.hints] if kind == "unmatched" else []
        for title, found in (("passed over:", self.passed_over), ("worth a look:", self.notes)):
            lines += ["", title, *_listed(found)] if found else []
        return "\n".join([*lines, "", self._verdict()])

    def _verdict(self) -> str:
        if not self.ok:
            return "Mend these before training."
        if self.notes or self.passed_over:
            return "No errors; see above what was passed over or is worth a look."
        return "Everything is in order."


def _listed(texts: Sequence[str]) -> list[str]:
    more = [f"  ... and {len(texts) - _SHOWN} more (--json lists all)"] if len(texts) > _SHOWN else []
    return [*(f"  {text}" for text in texts[:_SHOWN]), *more]

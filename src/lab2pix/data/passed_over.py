"""Files that the listing of a dataset passes over, and why: other kinds of files, and names that nearly match."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab2pix.data.files import ARRAY_SUFFIX, IMAGE_SUFFIXES, list_files, path_prefix
from lab2pix.utils.text import reason_of

_MORE_IMAGES = frozenset(
    {
        *(".heic", ".heif", ".hif", ".jxl", ".j2k", ".jpf", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".pcx", ".dds"),
        *(".exr", ".hdr", ".psd", ".ico", ".svg", ".pdf", ".eps", ".dcm", ".nii", ".webm", ".mp4", ".mov", ".avi"),
        *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".rw2", ".orf", ".raw"),
    }
)
"""Suffixes of images and films that are not read."""
_SYSTEM = frozenset({"thumbs.db", "desktop.ini"})
_MAGIC = {
    b"\x89PNG": ".png",
    b"\xff\xd8\xff": ".jpg",
    b"GIF8": ".gif",
    b"BM": ".bmp",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
}
_PARTS = re.compile(r"[_\-. ]+")


@dataclass(frozen=True)
class Looked:
    """A folder that was looked through for one part of the pairs.

    Attributes:
        folder: the folder.
        ending: common end of the file names, before the suffix.
        keep: tells whether a suffix in lower case counts.
        names: names of what was found, without ending and suffix.
        arrays: whether arrays were found instead of images.
    """

    folder: Path
    ending: str
    keep: Callable[[str], bool]
    names: Iterable[str]
    arrays: bool = False

    def counts(self, name: str) -> bool:
        """Return whether a file counts, by its relative path."""
        stem, suffix = _split(name)
        valid = {ARRAY_SUFFIX} if self.arrays else IMAGE_SUFFIXES
        return suffix in valid and stem.endswith(self.ending) and self.keep(suffix)


def _split(name: str) -> tuple[str, str]:
    """Return a path without its suffix, and the suffix in lower case."""
    stem, dot, suffix = name.rpartition(".")
    return (stem, f".{suffix.lower()}") if dot and "/" not in suffix else (name, "")


def passed_over(root: Path | None, looked: Sequence[Looked]) -> list[str]:
    """Describe the files and folders below a dataset's root that do not count, with the likely cure.

    Args:
        root: folder of the dataset; None: there is none above the folders that were looked through.
        looked: the folders that were looked through.
    """
    lines: list[str] = []
    folders = dict.fromkeys(part.folder for part in looked)
    known = set().union(*(part.names for part in looked))
    for folder in folders:
        parts = [part for part in looked if part.folder == folder]
        lines += _in_folder(folder, parts, known, _shown(folder, root))
    if root is not None and root not in folders:
        lines += _outside(root, list(folders))
    return lines


def _shown(path: Path, root: Path | None) -> str:
    inside = root is not None and path != root and path.is_relative_to(root)
    return str(path.relative_to(root)) if root is not None and inside else str(path)


def _in_folder(folder: Path, parts: Sequence[Looked], known: Container[str], shown: str) -> Iterator[str]:
    """Describe what is passed over in one folder, in groups of one cure."""
    groups: dict[str, list[str]] = defaultdict(list)

    def skip(name: str, why: str) -> None:
        groups[why].append(name)

    for name in list_files(folder, skip, lambda message: None):
        if not any(part.counts(name) for part in parts) and name.rpartition("/")[2].lower() not in _SYSTEM:
            groups[_cure(folder, name, parts, known)].append(name)
    for cure, names in groups.items():
        count = f"{len(names)} file{'' if len(names) == 1 else 's'}"
        yield f"{shown}: {count} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''}): {cure}"


def _cure(folder: Path, name: str, parts: Sequence[Looked], known: Container[str]) -> str:
    stem, suffix = _split(name)
    endings = sorted({part.ending for part in parts if part.ending})
    if suffix in IMAGE_SUFFIXES:
        if not endings:
            return "of another kind than this format has here"
        core = next((core for core in _cores(stem) if core in known), None)
        other = "other names" if core is None else f"names that end in '{stem[len(core) :]}'"
        read = " and ".join(f"'{ending}'" for ending in endings)
        return f"{other}, where the format reads {read}; to use them, arrange them as format 'folder'"
    if suffix == ARRAY_SUFFIX:
        return "arrays, which are read only in folders without images"
    if suffix in _MORE_IMAGES:
        return f"{suffix} is not read; convert them to PNG or JPEG"
    kind = _magic(folder / name)
    if kind is not None:
        return f"these are images without a known ending; rename them to {kind}"
    return "no images"


def _cores(stem: str) -> Iterator[str]:
    """Yield what is left of a name without its last parts, longest first."""
    for match in reversed(list(_PARTS.finditer(stem))):
        yield stem[: match.start()]


def _magic(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError:
        return None
    return next((suffix for start, suffix in _MAGIC.items() if head.startswith(start)), None)


def _outside(root: Path, folders: Sequence[Path]) -> Iterator[str]:
    """Describe the folders and images in the root that belong to no part of the pairs."""
    try:
        entries = [(entry, entry.is_dir()) for entry in sorted(root.iterdir()) if not entry.name.startswith(".")]
    except OSError as error:
        yield f"{root}: cannot be listed ({reason_of(error)}), so other folders in it are not named"
        return
    for entry, is_folder in entries:
        if is_folder and not any(folder.is_relative_to(entry) for folder in folders):
            yield f"{entry.name}{path_prefix(Path('/'))}: a folder that this format does not read"
        elif entry.is_file() and _split(entry.name)[1] in IMAGE_SUFFIXES:
            yield f"{entry.name}: an image outside of the folders that this format reads"


# --- names that nearly match ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Core:
    """Part of a name by which it may match another, and what surrounds it."""

    name: str
    before: str
    after: str


def likely_partners(
    photos: Iterable[str], labels: Iterable[str], sides: tuple[str, str] = ("photos", "label maps")
) -> list[str]:
    """Find pairs among names without a partner, and describe what makes them differ.

    Args:
        photos: names of photos without a label map, relative paths without suffix.
        labels: names of label maps without a photo.
        sides: what the two are, in the plural.

    Returns:
        A sentence with the cure for each kind of difference.
    """
    ours, theirs = _by_core(photos), _by_core(labels)
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    matched: set[str] = set()
    for text, core in theirs.items():
        if text in ours and core.name not in matched:
            matched.add(core.name)
            groups[_difference(ours[text], core, sides)].append((ours[text].name, core.name))
    one, other_one = (side.removesuffix("s") for side in sides)
    return [
        f"{len(pairs)} may belong together, such as {one} {pairs[0][0]} and {other_one} {pairs[0][1]}: {difference}"
        for difference, pairs in groups.items()
    ]


def _by_core(names: Iterable[str]) -> dict[str, _Core]:
    """Return the parts of names by which they may match, without those that several names share."""
    found: dict[str, _Core] = {}
    shared: set[str] = set()
    for name in names:
        for core in _matchable(name):
            text = _folded(core)
            if found.setdefault(text, core).name != name:
                shared.add(text)
    return {text: core for text, core in found.items() if text not in shared}


def _matchable(name: str) -> Iterator[_Core]:
    """Yield a name, and what is left of it without a word at its end or start; a number does not count as one."""
    yield _Core(name, "", "")
    folder, slash, base = name.rpartition("/")
    for match in reversed(list(_PARTS.finditer(base))):
        if re.search(r"[^\W\d_]", base[match.start() :]) and match.start():
            yield _Core(name, "", base[match.start() :])
        if re.search(r"[^\W\d_]", base[: match.end()]) and match.end() < len(base):
            yield _Core(name, base[: match.end()], "")
    if slash:
        yield _Core(name, folder + slash, "")


def _text(core: _Core) -> str:
    folder, slash, base = core.name.rpartition("/")
    if core.before.endswith("/"):
        return base
    return folder + slash + base[len(core.before) : len(base) - len(core.after)]


def _folded(core: _Core) -> str:
    return unicodedata.normalize("NFC", _text(core)).casefold().strip()


def _difference(photo: _Core, label: _Core, sides: tuple[str, str]) -> str:
    """Describe what makes two matching names differ, and the cure."""
    found = []
    if "/" in photo.before + label.before:
        found.append("they are in different sub-folders; use the same ones on both sides")
    for what, core in zip(sides, (photo, label), strict=True):
        if core.after:
            found.append(f"{what} end in '{core.after}'; rename them without it")
        elif core.before and not core.before.endswith("/"):
            found.append(f"{what} start with '{core.before}'; rename them without it")
    one, other = _text(photo), _text(label)
    if unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other) and one != other:
        found.append("the accents are encoded in two ways (NFC and NFD); rename one side")
    elif one.strip() == other.strip() and one != other:
        found.append("the names differ in spaces alone; rename one side")
    elif one != other:
        found.append("the names differ in capitals alone; rename one side")
    return ", and ".join(found)

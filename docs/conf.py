"""Sphinx configuration: MyST and furo, with every warning an error.

Each build fills in the tables of settings, models, presets and label spaces (`<!-- generated: NAME -->` in a page),
links `lab2pix.module.name` in the prose to the API pages, checks that every such name and every `section.setting` in
the prose exists, and shows notebooks without running them.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "src"))

import fastapi  # noqa: E402, F401 (before autodoc overwrites the annotations of BaseModel)
from pydantic import BaseModel  # noqa: E402
from pydantic.fields import FieldInfo  # noqa: E402
from sphinx.util import logging  # noqa: E402

import lab2pix  # noqa: E402
from lab2pix.config.schema import RunConfig  # noqa: E402
from lab2pix.labels.space import LabelSpace  # noqa: E402
from lab2pix.methods import get_method, method_names  # noqa: E402
from lab2pix.recipes import load_config, preset_descriptions, preset_names  # noqa: E402
from lab2pix.utils.registry import label_space_names  # noqa: E402

if TYPE_CHECKING:
    from sphinx.application import Sphinx

logger = logging.getLogger(__name__)

project = "lab2pix"
author = "The lab2pix authors"
copyright = "the lab2pix authors, Apache-2.0"
release = version = lab2pix.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown", ".ipynb": "markdown"}
# Names such as `name` exist in several classes.
suppress_warnings = ["ref.python"]

html_theme = "furo"
html_title = f"lab2pix {release}"
html_copy_source = False
html_theme_options: dict[str, Any] = {"navigation_with_keys": True}
_PROJECT = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
if "Repository" in _PROJECT["urls"]:
    html_theme_options |= {
        "source_repository": _PROJECT["urls"]["Repository"],
        "source_branch": "main",
        "source_directory": "docs/",
    }
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True


# --- tables made from the code ------------------------------------------------------------------------------------


def settings_tables() -> str:
    """Return a heading, a sentence and a table for each group of settings."""
    shared = {path for path, _ in _groups("", RunConfig)}
    parts = [_settings_table("", "The run itself", RunConfig)]
    parts += [_settings_table(path, f"`{path}`", model) for path, model in _groups("", RunConfig)]
    for name in method_names():
        config = get_method(name).Config
        own = [(path, model) for path, model in _groups("", config) if path not in shared or path == "train"]
        parts += [_settings_table(path, f"`{path}` of `{name}`", model) for path, model in own]
    return "\n\n".join(parts)


def _groups(prefix: str, model: type[BaseModel]) -> list[tuple[str, type[BaseModel]]]:
    found = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            path = f"{prefix}{name}"
            found += [(path, field.annotation), *_groups(f"{path}.", field.annotation)]
    return found


def _settings_table(path: str, title: str, model: type[BaseModel]) -> str:
    prefix = f"{path}." if path else ""
    rows = ["| setting | values | default | what it decides |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            continue
        cells = (
            f"`{prefix}{field.alias or name}`",
            _values(field),
            f"`{_literal(_default(field))}`",
            field.description or "",
        )
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([f"### {title}", "", (model.__doc__ or "").strip(), "", *rows])


def _default(field: FieldInfo) -> object:
    return field.get_default(call_default_factory=True, validated_data={})


def _values(field: FieldInfo) -> str:
    """Return which values a setting takes, with its bounds."""
    signs = (("gt", "> "), ("ge", "≥ "), ("lt", "< "), ("le", "≤ "))
    bounds = [f"{sign}{getattr(rule, name)}" for rule in field.metadata for name, sign in signs if hasattr(rule, name)]
    return ", ".join([_kind(field.annotation), *bounds])


def _kind(annotation: Any) -> str:
    """Return an annotation in the words of someone who writes YAML."""
    words = {int: "whole number", float: "number", bool: "true, false", str: "text", type(None): "null"}
    if annotation in words:
        return words[annotation]
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(inner[0])
    if origin is Literal:
        return ", ".join(f"`{_literal(choice)}`" for choice in inner)
    if origin is tuple:
        return f"list: {_kind(inner[0])}s" if Ellipsis in inner else f"list of {len(inner)}: {_kind(inner[0])}s"
    if origin is dict:
        return f"mapping from {_kind(inner[0])} to {_kind(inner[1])}"
    return " or ".join(_kind(part) for part in inner)


def _literal(value: object) -> str:
    """Return a value as YAML has it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, tuple):
        return "[" + ", ".join(_literal(part) for part in value) + "]"
    return str(value)


def presets_table() -> str:
    """Return one row per preset: its name and the first line of its file."""
    rows = [f"| `{name}` | {text} |" for name, text in preset_descriptions().items()]
    return "\n".join(["| preset | description |", "|---|---|", *rows])


def models_table() -> str:
    """Return one row per preset: method, data, size and length of training."""
    rows = ["| preset | method | data | size | training |", "|---|---|---|---|---|"]
    for name in preset_names():
        config = load_config(name)
        train, (height, width) = config.train, config.data.size
        length = f"{train.epochs} epochs" if train.steps is None else f"{train.steps:,} steps"
        cells = f"`{name}` | `{config.method}` | `{config.data.format}` | {height}x{width}"
        rows.append(f"| {cells} | {length}, batch {train.batch_size} |")
    return "\n".join(rows)


def label_spaces_table() -> str:
    """Return one row per shipped label space."""
    rows = []
    for name in label_space_names():
        space = LabelSpace.load(name)
        unknown = "none" if space.unknown_value is None else str(space.unknown_value)
        first = space.file_offset
        rows.append(f"| `{name}` | {space.num_classes} | {first} to {first + space.num_classes - 1} | {unknown} |")
    return "\n".join(["| label space | classes | ids in files | unknown |", "|---|---|---|---|", *rows])


GENERATED: dict[str, Callable[[], str]] = {
    "settings": settings_tables,
    "presets": presets_table,
    "models": models_table,
    "label-spaces": label_spaces_table,
}


# --- names in the prose: they exist, and they are links -----------------------------------------------------------

_MARK = re.compile(r"<!-- generated: ([\w-]+) -->")
_FENCE = re.compile(r"^(```|~~~|:::).*?^\1", re.MULTILINE | re.DOTALL)
_NAME = re.compile(r"(?<![`}])`lab2pix((?:\.\w+)+)(?:\(\))?`(?!`)")
_CONFIGS = [RunConfig, *(get_method(name).Config for name in method_names())]
_SECTIONS = "|".join(sorted({name for config in _CONFIGS for name, _ in _groups("", config) if "." not in name}))
_SETTING = re.compile(rf"`((?:{_SECTIONS})(?:\.[a-z_]+)+)(?=[`=:])")
_OTHER_NAMES = ("guide/parity",)
"""Pages that speak of names in vector files, which look like settings."""


def exists(name: str) -> bool:
    """Say whether a dotted name is a module, or something that one holds."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            thing: Any = import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            fields = getattr(thing, "__dataclass_fields__", {}) | getattr(thing, "model_fields", {})
            if part in fields and not hasattr(thing, part):
                return True
            if not hasattr(thing, part):
                return False
            thing = getattr(thing, part)
        return True
    return False


def known_settings() -> set[str]:
    """Return the dotted path of every setting."""
    return {
        f"{path}.{field.alias or name}"
        for config in _CONFIGS
        for path, model in _groups("", config)
        for name, field in model.model_fields.items()
    }


def _outside_fences(text: str, change: Callable[[str], str]) -> str:
    """Apply a change to the prose of a page and leave its code blocks alone."""
    result, end = [], 0
    for fence in _FENCE.finditer(text):
        result += [change(text[end : fence.start()]), fence.group()]
        end = fence.end()
    return "".join([*result, change(text[end:])])


def notebook_text(source: str) -> str:
    """Return a notebook as Markdown: its text, its code, and the images and text that the code printed."""
    parts = []
    for cell in json.loads(source)["cells"]:
        text = "".join(cell["source"])
        parts.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            parts += [f"![result](data:{kind};base64,{data[kind]})" for kind in data if kind.startswith("image/")]
            if "text" in output:
                parts.append("```text\n" + "".join(output["text"]).rstrip() + "\n```")
    return "\n\n".join(parts)


def prepare_page(app: Sphinx, docname: str, source: list[str]) -> None:
    """Fill in the tables, check the names, and turn those of the package into links."""
    text = source[0]
    if app.env.doc2path(docname).suffix == ".ipynb":
        text = notebook_text(text)
    settings = known_settings()

    def check(prose: str) -> str:
        for name in () if docname in _OTHER_NAMES else _SETTING.findall(prose):
            if name not in settings and not name.endswith((".py", ".yaml", ".json", ".pt")):
                logger.warning("there is no setting '%s'", name, location=docname)
        for name in _NAME.findall(prose):
            if not exists(f"lab2pix{name}"):
                logger.warning("there is no 'lab2pix%s'", name, location=docname)
        return _NAME.sub(lambda found: f"{{py:obj}}`{found[1][1:]} <lab2pix{found[1]}>`", prose)

    text = _outside_fences(text, check)
    if _MARK.search(text):
        for file in (HERE.parent / "src" / "lab2pix").rglob("*.yaml"):
            app.env.note_dependency(str(file))
        app.env.note_dependency(str(HERE.parent / "src" / "lab2pix" / "config" / "schema.py"))
    source[0] = _MARK.sub(lambda mark: GENERATED[mark.group(1)](), text)


# --- docstrings: Markdown's code marks, no accidental markup -------------------------------------------------------

_LITERAL = re.compile(r"(``.+?``|`[^`]+`(?!_))")


def prepare_docstring(*event: Any) -> None:
    """Show `code` as code, and stars and bars outside it as themselves; the event's last part is its lines."""
    lines: list[str] = event[-1]
    in_block = False
    for number, line in enumerate(lines):
        if line.strip().startswith((">>>", "...")):
            in_block = True
        elif not line.strip():
            in_block = False
        if in_block:
            continue
        parts = _LITERAL.split(line)
        for place, part in enumerate(parts):
            if place % 2:
                parts[place] = part if part.startswith("``") else f"`{part}`"
            else:
                parts[place] = re.sub(r"([*|]|(?<=\w)_(?=\W|$))", r"\\\1", part)
        lines[number] = "".join(parts)


def setup(app: Sphinx) -> None:
    """Connect the hooks; that of the docstrings comes before napoleon's."""
    app.connect("source-read", prepare_page)
    app.connect("autodoc-process-docstring", prepare_docstring, priority=400)

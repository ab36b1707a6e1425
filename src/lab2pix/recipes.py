"""Loading of configurations: merges a preset, YAML file or dict with overrides into a validated `RunConfig`.

Layers in order of increasing precedence: the chain of `base:` files, the file itself, the overrides. Paths inside a
configuration, such as `data.root`, are relative to the working directory, not to the file. Errors name the key.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError
from yaml import YAMLError

from lab2pix.config.messages import format_validation_error, setting_groups
from lab2pix.config.rules import check_rules
from lab2pix.config.schema import LabelSpaceSource, RunConfig
from lab2pix.errors import ConfigError, did_you_mean
from lab2pix.utils.files import expand_user
from lab2pix.utils.registry import is_yaml
from lab2pix.utils.yaml_text import parse_yaml


class _Dumper(yaml.SafeDumper):
    """YAML dumper with mappings in block style and lists in flow style."""


_Dumper.add_representer(
    list, lambda dumper, values: dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=True)
)


@dataclass(frozen=True)
class _Layer:
    """Settings with their origin (file or preset) for error messages."""

    origin: str
    values: dict[str, Any]


def preset_names() -> list[str]:
    """Return the names of the shipped presets, sorted."""
    return [entry.name.removesuffix(".yaml") for entry in _preset_files()]


def preset_descriptions() -> dict[str, str]:
    """Return the description of each preset by name: the comment in the first line of its file."""
    return {
        entry.name.removesuffix(".yaml"): entry.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        for entry in _preset_files()
    }


def load_config(
    source: str | Path | Mapping[str, Any] | RunConfig, overrides: Sequence[str] | Mapping[str, Any] = ()
) -> RunConfig:
    """Load, merge and validate the configuration of a run.

    Args:
        source: name of a preset, path of a YAML file, nested mapping, or `RunConfig`.
            A file or a mapping may name a preset or another file as its `base`.
        overrides: `key.sub=value`, one or several, or values by `key.sub`. For a setting of type string the value is
            the text itself; otherwise it is parsed as YAML: `[64, 64]`, `2e-4`, `true`. `null` means None.
            `train.steps` replaces `train.epochs` of the source, and the other way around.

    Raises:
        ConfigError: missing source, unknown key, value of the wrong type or out of range, or conflicting settings.
    """
    layers = _layers(source)
    if isinstance(overrides, str):
        overrides = [overrides]
    if isinstance(overrides, Mapping):
        overrides = [f"{key}={_override_text(value)}" for key, value in overrides.items()]
    pairs = [_split_override(text) for text in overrides]
    named = [_Layer("", {"method": value}) for path, value in pairs if path == ["method"]]
    config_class = _config_class([*layers, *named])
    layers += [_override(path, text, config_class) for path, text in pairs]
    values: dict[str, Any] = {}
    groups = frozenset(setting_groups(config_class))
    both = {"train.steps", "train.epochs"} <= {".".join(path) for path, _ in pairs}
    for layer in layers:
        _merge(values, layer.values, _prefix(layer.origin), groups)
        if not both:
            _replace_duration(values, layer.values)
    try:
        # Strict validation of JSON accepts a list for a tuple, but not "16" for 16.
        config = config_class.model_validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(_origin(layers, first["loc"]) + format_validation_error(first, config_class)) from error
    check_rules(config)
    return config


def _override_text(value: Any) -> str:
    return str(value) if isinstance(value, str | Path) else json.dumps(value)


def _replace_duration(values: dict[str, Any], layer: Mapping[str, Any]) -> None:
    """Let a layer's `train.steps` replace the `train.epochs` of earlier layers, and the other way around."""
    own = layer.get("train")
    for name, other in (("steps", "epochs"), ("epochs", "steps")):
        if isinstance(own, Mapping) and own.get(name) is not None and other not in own:
            values["train"][other] = None


def lacks_data_root(config: RunConfig) -> bool:
    """Return whether `data.root` is unset although the run reads files from it."""
    data = config.data
    no_inputs = data.inputs_root is None and data.sketch.from_ != "photo"
    return not data.root and data.format != "scenes" and (no_inputs or data.images.root is None)


def require_data_root(config: RunConfig) -> None:
    """Check that the dataset folder is set, which presets of real datasets leave open.

    Raises:
        ConfigError: `data.root` is unset although the format reads files.
    """
    if lacks_data_root(config):
        if config.data.inputs_root or config.data.images.root:
            inputs = "source" if config.data.input == "images" else "labels"
            given, lacking = (inputs, "images") if config.data.inputs_root else ("images", inputs)
            raise ConfigError(
                f"data.{given}.root is set, but neither data.{lacking}.root nor data.root: add "
                f"data.{lacking}.root=/path/to/{'label-maps' if lacking == 'labels' else 'photos'}"
            )
        raise ConfigError(f"data.root is not set: add data.root=/path/to/{config.data.format}")


def keep_label_spaces(config: RunConfig, stored: RunConfig | None = None) -> RunConfig:
    """Replace the label spaces that are files by their content, so that editing or moving a file changes no run.

    Args:
        config: the configuration.
        stored: configuration of the run to resume, whose label spaces count; None for a new run.

    Raises:
        ConfigError: a file is missing, or differs from what the run was started with.
        LabelError: a file does not hold a label space.
    """
    data = config.data
    mine = _kept("data.label_space", data.label_space, None if stored is None else stored.data.label_space)
    sketch = data.sketch
    if sketch.label_space is not None:
        other = None if stored is None else stored.data.sketch.label_space
        sketch = sketch.model_copy(update={"label_space": _kept("data.sketch.label_space", sketch.label_space, other)})
    data = data.model_copy(update={"label_space": mine, "sketch": sketch})
    return config.model_copy(update={"data": data})


def _kept(key: str, asked: LabelSpaceSource, stored: LabelSpaceSource | None) -> LabelSpaceSource:
    """Return the label space that a run keeps under a setting."""
    if not isinstance(asked, str) or not is_yaml(asked):
        return asked
    from lab2pix.labels.space import LabelSpace  # imports torch, which listing presets does not need

    there = Path(asked).is_file()
    if not isinstance(stored, dict):
        if not there:
            raise ConfigError(f"{key} names '{asked}', but there is no such file")
        return LabelSpace.load(asked).to_dict()
    if there and (changes := LabelSpace.load(stored).differences(LabelSpace.load(asked))):
        listed = "; ".join(changes[:4]) + ("; ..." if len(changes) > 4 else "")
        raise ConfigError(
            f"{key}: {asked} is not the label space that the run was started with (then / now: {listed}); restore it, "
            "leave the setting out to go on with the run's own, or start a new run with another --out"
        )
    return stored


def to_yaml(config: RunConfig) -> str:
    """Return the full configuration as YAML; `load_config` restores it exactly."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def _preset_files() -> list[Traversable]:
    folder = files("lab2pix") / "presets"
    return sorted((entry for entry in folder.iterdir() if entry.name.endswith(".yaml")), key=lambda entry: entry.name)


def _layers(source: str | Path | Mapping[str, Any] | RunConfig) -> list[_Layer]:
    if isinstance(source, RunConfig):
        return [_Layer("", source.model_dump(mode="json"))]
    if isinstance(source, Mapping):
        return _with_base(_Layer("", dict(source)), Path(), ())
    return _named_layers(str(source), Path(), ())


def _named_layers(name: str, folder: Path, seen: tuple[str, ...], asked_by: str = "") -> list[_Layer]:
    """Return the layers of a preset or file, bases first; relative paths start from `folder`."""
    if name in preset_names():
        entry: Traversable = files("lab2pix") / "presets" / f"{name}.yaml"
        identity, origin = name, name
    else:
        path = folder / expand_user(name)
        if not path.is_file():
            raise ConfigError(asked_by + _not_found(name, path))
        entry, identity, origin = path, str(path.resolve()), str(path)
    if identity in seen:
        raise ConfigError(f"{origin}: its chain of base files leads back to itself; remove one `base`")
    return _with_base(_Layer(origin, _read(entry, origin)), Path(origin).parent, (*seen, identity))


def _with_base(layer: _Layer, folder: Path, seen: tuple[str, ...]) -> list[_Layer]:
    base = layer.values.pop("base", None)
    if base is None:
        return [layer]
    if not isinstance(base, str):
        raise ConfigError(f"{_prefix(layer.origin)}base is {base!r} but must be the name of a preset or a YAML file")
    return [*_named_layers(base, folder, seen, asked_by=_prefix(layer.origin)), layer]


def _not_found(name: str, path: Path) -> str:
    if path.is_dir():
        return f"{path} is a folder but must be a YAML file or the name of a preset"
    if is_yaml(name) or "/" in name or "\\" in name:
        return f"no configuration file {path}"
    return f"unknown preset '{name}'{did_you_mean(name, preset_names())}"


def _read(entry: Traversable, origin: str) -> dict[str, Any]:
    try:
        values = parse_yaml(entry.read_text(encoding="utf-8"))
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or _first_line(error)
        raise ConfigError(f"{origin}: not valid YAML{where}: {problem}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{origin}: not a text file in UTF-8; a configuration is YAML") from error
    except OSError as error:
        raise ConfigError(f"{origin}: cannot be read: {error.strerror or error}") from error
    if not isinstance(values, dict | None):
        raise ConfigError(f"{origin}: must hold settings as `key: value` lines")
    return values or {}


def _split_override(text: str) -> tuple[list[str], str]:
    """Split `key.sub=value` into the key path and the text of the value."""
    key, equals, value = text.partition("=")
    path = key.split(".")
    if not equals or not all(path):
        raise ConfigError(f"'{text}' is not a setting; write key=value, such as train.batch_size=4")
    return path, value


def _override(path: Sequence[str], text: str, config_class: type[RunConfig]) -> _Layer:
    values: Any = _value(path, text, config_class)
    for part in reversed(path):
        values = {part: values}
    return _Layer("", values)


def _value(path: Sequence[str], text: str, config_class: type[RunConfig]) -> Any:
    """Parse the text of an override: unchanged if the setting accepts strings, otherwise as YAML."""
    if text in ("null", ""):
        return None
    annotation = _annotation(path, config_class)
    if annotation is not None:
        try:
            return TypeAdapter(annotation).validate_python(text, strict=True)
        except ValidationError:
            pass
    try:
        return parse_yaml(text)
    except YAMLError as error:
        raise ConfigError(f"'{'.'.join(path)}={text}' cannot be read: {_first_line(error)}") from error


def _annotation(path: Sequence[str], model: type[BaseModel]) -> Any:
    """Return the type annotation at a key path (for a dictionary, of its values), or None for an unknown key."""
    for index, part in enumerate(path):
        found = {field.alias or name: field for name, field in model.model_fields.items()}.get(part)
        if found is None:
            return None
        kind = found.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            model = kind
            continue
        entries = get_args(kind) if get_origin(kind) is dict else ()
        rest = len(path) - index - 1
        return found.annotation if not rest else entries[1] if entries and rest == 1 else None
    return None


def _merge(
    values: dict[str, Any], added: Mapping[str, Any], prefix: str, groups: frozenset[str], path: str = ""
) -> None:
    """Merge settings recursively into `values`; values that are not groups are replaced."""
    for key, value in added.items():
        where = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping):
            if not isinstance(values.get(key), dict):
                values[key] = {}
            _merge(values[key], value, prefix, groups, where)
        elif where not in groups:
            values[key] = value
        elif value is not None:  # an empty group keeps the values of its base
            kind = "a list" if isinstance(value, list) else repr(value)
            raise ConfigError(f"{prefix}{where} is {kind} but must be a group of settings")


def _origin(layers: Sequence[_Layer], path: Sequence[int | str]) -> str:
    """Return the message prefix that names the last layer which sets `path`."""
    for layer in reversed(layers):
        if all(_descend(layer.values, path)):
            return _prefix(layer.origin)
    return ""


def _descend(values: Any, path: Sequence[int | str]) -> Iterator[bool]:
    for part in path:
        if not isinstance(values, dict):
            return  # a leaf: this layer sets it as a whole
        yield part in values
        values = values.get(part)


def _config_class(layers: Sequence[_Layer]) -> type[RunConfig]:
    """Return the config class of the method named by the last layer that sets `method`."""
    from lab2pix.methods import get_method  # imports torch, which listing presets does not need

    for layer in reversed(layers):
        name = layer.values.get("method")
        if name is not None:
            try:
                return get_method(str(name)).Config
            except ConfigError as error:
                raise ConfigError(f"{_prefix(layer.origin)}{error}") from error
    return get_method(RunConfig().method).Config


def _prefix(origin: str) -> str:
    return f"{origin}: " if origin else ""


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__

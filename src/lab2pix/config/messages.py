"""Error messages for pydantic's validation errors, one sentence each."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from lab2pix.errors import did_you_mean

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text (put it in quotes)",
    "tuple_type": "a list such as [256, 256]",
    "dict_type": "a group of settings",
    "model_type": "a group of settings",
    "model_attributes_type": "a group of settings",
}
_BOUNDS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def setting_names(config_class: type[BaseModel]) -> list[str]:
    """Return the dotted path of every setting and every group of settings."""
    return list(_walk(config_class, ""))


def setting_groups(config_class: type[BaseModel]) -> list[str]:
    """Return the dotted path of every group of settings, parents first."""
    names = setting_names(config_class)
    groups = {name.rpartition(".")[0] for name in names if "." in name}
    return [name for name in names if name in groups]


def format_validation_error(error: ErrorDetails, config_class: type[BaseModel]) -> str:
    """Format a validation error as one sentence: what is wrong, where, and what is valid."""
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"unknown setting '{path}'{_nearest(error['loc'], setting_names(config_class))}"
    return _explain_value(error)


def _explain_value(error: ErrorDetails) -> str:
    kind, context = error["type"], error.get("ctx", {})
    key, value = _in_words(error["loc"]), _show(error["input"])
    if error["loc"] and error["loc"][-1] == "[key]":
        choices = _choices(context)
        return f"{_in_words(error['loc'][:-2])} knows no '{error['input']}'{did_you_mean(str(error['input']), choices)}"
    if kind == "literal_error":
        return f"{key} is {value}{_valid(error['input'], context)}"
    if kind in ("too_long", "too_short", "missing"):
        return f"{key} must hold {context.get('min_length', context.get('max_length', 2))} numbers"
    if kind in _BOUNDS:
        limit, words = _BOUNDS[kind]
        return f"{key} is {value} but must be {words} {context[limit]}"
    if kind in _EXPECTED:
        return f"{key} is {value} but must be {_EXPECTED[kind]}"
    return f"{key} is {value}: {error['msg'][:1].lower()}{error['msg'][1:]}"


def _walk(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for field, info in model.model_fields.items():
        name = info.alias or field
        yield prefix + name
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from _walk(info.annotation, f"{prefix}{name}.")


def _nearest(path: Sequence[int | str], names: Sequence[str]) -> str:
    """Return the clause that suggests the nearest setting: a sibling if possible, else any."""
    *parents, last = (str(part) for part in path)
    prefix = "".join(f"{part}." for part in parents)
    siblings = {name.removeprefix(prefix): name for name in names if name.rpartition(".")[0] == prefix[:-1]}
    near = difflib.get_close_matches(last, siblings, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{siblings[near[0]]}'?"
    anywhere = {name.rpartition(".")[2]: name for name in reversed(names)}
    near = difflib.get_close_matches(last, anywhere, n=1, cutoff=0.75)
    return f"; did you mean '{anywhere[near[0]]}'?" if near else f"; valid: {', '.join(siblings.values() or names)}"


def _in_words(path: Sequence[int | str]) -> str:
    """Return the key's path; list indices, and pydantic's names of the types in a union, are left out."""
    keys = [part for part in path if isinstance(part, str)]
    words = [part for part in keys if part != "str" and not part.startswith(("dict[", "function-"))]
    return ".".join(words) or "the configuration"


def _show(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping | list):
        return "a group of settings" if isinstance(value, Mapping) else str(value)
    return f"'{value}'" if isinstance(value, str) else str(value)


def _choices(context: Mapping[str, Any]) -> list[str]:
    """Return the values that pydantic lists in a message such as "'a', 'b' or 'c'"."""
    text = str(context.get("expected", ""))
    return [part.strip().strip("'") for part in text.replace(" or ", ", ").split(",") if part.strip()]


def _valid(value: Any, context: Mapping[str, Any]) -> str:
    choices = _choices(context)
    if isinstance(value, str) and difflib.get_close_matches(value, choices, n=1, cutoff=0.6):
        return did_you_mean(value, choices)
    return f" but must be one of {', '.join(choices)}"

"""HTML page of the painter's API, rendered from its OpenAPI description without resources of other sites."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lab2pix.reporting.html import render


def docs_page(schema: Mapping[str, Any], origin: str) -> str:
    """Return the page."""
    title = f"{schema['info']['title']}: API"
    return render(
        "api.html", title=title, schema=schema, origin=origin, values=_allowed_values, body_schema=_body_schema
    )


def _body_schema(response: Mapping[str, Any]) -> tuple[str, bool]:
    """Return the schema name of a response's JSON body, or `""`, and whether the body is a list of it."""
    schema = response["content"].get("application/json", {}).get("schema", {})
    reference = schema.get("$ref") or schema.get("items", {}).get("$ref", "")
    return reference.rpartition("/")[2], "items" in schema


def _allowed_values(schema: Mapping[str, Any]) -> str:
    """Return in a few words which values a schema allows."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema:
        return " or ".join(_allowed_values(part) for part in schema["anyOf"])
    if "enum" in schema:
        text = " or ".join(map(str, schema["enum"]))
    elif "items" in schema:
        text = f"list of {_allowed_values(schema['items'])}"
    else:
        text = str(schema.get("type", "any")).replace("array", "list")
    if "minimum" in schema:
        text += f" {schema['minimum']} to {schema['maximum']}"
    if "pattern" in schema:
        text += f" {schema['pattern']}"
    default = schema.get("default")
    if default is None:
        return text
    return f"{text}, default {default if isinstance(default, str) else json.dumps(default)}"

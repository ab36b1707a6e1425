"""The page that lists the painter's API, made from its description; nothing on it comes from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

__all__ = ["docs_page"]

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/api/docs.css">
</head>
<body>
<main>
<h1>{title}: API</h1>
<p>{about} <a href="/openapi.json">openapi.json</a> is this page for programs; <a href="/">the painter</a> uses the
same addresses.</p>
<pre>curl --data-binary @label.png -H 'content-type: image/png' -o picture.png '{origin}/api/synthesize?seed=1'</pre>
{operations}
<h2>Answers</h2>
{schemas}
</main>
</body>
</html>
"""


def docs_page(description: Mapping[str, Any], origin: str) -> str:
    """Return the page.

    Args:
        description: what `painter_api.describe` returns.
        origin: scheme, host and port that the example sends its request to.
    """
    operations = [
        _operation(method, path, operation)
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    ]
    schemas = [_schema(name, schema) for name, schema in description["components"]["schemas"].items()]
    return _PAGE.format(
        title=escape(description["info"]["title"]),
        about=escape(description["info"]["description"]),
        origin=escape(origin),
        operations="\n".join(operations),
        schemas="\n".join(schemas),
    )


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    parts = [
        f"<section>\n<h2><code><b>{method.upper()}</b> {escape(path)}</code></h2>",
        f"<p>{escape(operation['summary'])}.</p>",
    ]
    if operation["parameters"]:
        rows = [
            (
                f"<code>{escape(item['name'])}</code>",
                f"<code>{escape(_limits(item['schema']))}</code>",
                escape(item.get("description", "")),
            )
            for item in operation["parameters"]
        ]
        parts.append(_table(("parameter", "values", "meaning"), rows))
    if "requestBody" in operation:
        body = operation["requestBody"]
        kinds = " or ".join(f"<code>{escape(kind)}</code>" for kind in body["content"])
        parts.append(f"<p>Body, {kinds}: {escape(body['description'])}</p>")
    answers = [
        (
            f"<code>{status}</code>",
            ", ".join(f"<code>{escape(kind)}</code>" for kind in answer["content"]),
            _answer(answer),
        )
        for status, answer in operation["responses"].items()
    ]
    parts.append(_table(("status", "kind", "when"), answers))
    return "\n".join([*parts, "</section>"])


def _answer(answer: Mapping[str, Any]) -> str:
    """Return what an answer means, and what its JSON is called where it is no error."""
    text = escape(answer["description"]).replace("`Retry-After`", "<code>Retry-After</code>")
    schema = answer["content"].get("application/json", {}).get("schema", {})
    reference = schema.get("$ref") or schema.get("items", {}).get("$ref", "")
    name = reference.rpartition("/")[2]
    listed = "a list of " * ("items" in schema)
    return f"{text} It is {listed}<code>{escape(name)}</code>." if name and name != "ErrorAnswer" else text


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    rows = [
        (f"<code>{escape(key)}</code>", f"<code>{escape(_limits(item))}</code>", escape(item.get("description", "")))
        for key, item in schema["properties"].items()
    ]
    head = f"<section>\n<h3><code>{escape(name)}</code></h3>\n<p>{escape(schema.get('description', ''))}</p>"
    return "\n".join([head, _table(("key", "values", "meaning"), rows), "</section>"])


def _limits(schema: Mapping[str, Any]) -> str:
    """Return in a few words which values a schema allows."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema:
        return " or ".join(_limits(part) for part in schema["anyOf"])
    if "enum" in schema:
        text = " or ".join(map(str, schema["enum"]))
    elif "items" in schema:
        text = f"list of {_limits(schema['items'])}"
    else:
        text = str(schema.get("type", "any")).replace("array", "list")
    if "minimum" in schema:
        text += f" {schema['minimum']} to {schema['maximum']}"
    if "pattern" in schema:
        text += f" {schema['pattern']}"
    default = schema.get("default")
    return text if default is None else f"{text}, else {default if isinstance(default, str) else json.dumps(default)}"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    titles = "".join(f'<th scope="col">{title}</th>' for title in head)
    lines = ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows]
    return "\n".join(
        [f'<div class="wide"><table>\n<thead><tr>{titles}</tr></thead>\n<tbody>', *lines, "</tbody>\n</table></div>"]
    )

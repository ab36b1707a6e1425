"""Requests generated from the painter's OpenAPI description, valid and invalid."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab2pix.web.painter.formats import FORMATS
from lab2pix.web.painter.routes import openapi_schema
from tests.helpers.painter import label_png

BODIES = st.builds(label_png, st.integers(0, 13), st.integers(1, 20)) | st.binary(max_size=50)
OPERATIONS = {
    f"{method.upper()} {path}": description.get("parameters", [])
    for path, methods in openapi_schema()["paths"].items()
    for method, description in methods.items()
}
"""Parameters by method and path."""


@pytest.fixture(scope="module")
def schemathesis() -> Any:
    """The package, which takes seconds to import, with label maps as bodies."""
    package = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    for media_type in FORMATS:
        package.openapi.media_type(media_type, BODIES)
    return package


def statuses(schemathesis: Any, operation: str, mode: str, server: Any) -> set[int]:
    """Send requests that the description allows (`positive`) or not; validate the responses, and return statuses."""
    found = set()
    operations = (known.ok() for known in schemathesis.openapi.from_dict(openapi_schema()).get_all_operations())
    [described] = [known for known in operations if known.label == operation]

    @settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=described.as_strategy(generation_mode=schemathesis.GenerationMode(mode)))
    def ask(case: Any) -> None:
        # The description says only in words which parameters go together, and that the body must be an image.
        checks = [schemathesis.checks.positive_data_acceptance]
        answer = case.call_and_validate(base_url=f"http://127.0.0.1:{server.port}", excluded_checks=checks)
        found.add(answer.status_code)

    ask()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
def test_valid_requests_are_served(schemathesis: Any, server: Any, operation: str) -> None:
    found = statuses(schemathesis, operation, "positive", server)
    takes_image = operation in ("POST /api/synthesize", "POST /api/labels")
    tokens = {404} if operation == "POST /api/synthesize" else set()  # those of style images cannot be guessed, either
    expected = 404 if "{token}" in operation else 200  # tokens cannot be guessed
    expected = 400 if operation == "POST /api/styles" else expected  # this model takes no style image
    assert expected in found
    assert found <= ({200, 400, 415, 422, *tokens} if takes_image else {expected})


@pytest.mark.slow
@pytest.mark.parametrize("operation", [name for name, parameters in OPERATIONS.items() if parameters])
def test_invalid_requests_are_refused(schemathesis: Any, server: Any, operation: str) -> None:
    found = statuses(schemathesis, operation, "negative", server)
    assert found & {400, 404}
    assert found <= {200, 400, 404, 415, 422}

"""Requests generated from the painter's OpenAPI description, valid and invalid."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.painter import label_png

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")

from lab2pix.web.painter.formats import FORMATS  # noqa: E402 (the tests are skipped without schemathesis)
from lab2pix.web.painter.routes import openapi_schema  # noqa: E402

BODIES = st.builds(label_png, st.integers(0, 13), st.integers(1, 20)) | st.binary(max_size=50)
for media_type in FORMATS:
    schemathesis.openapi.media_type(media_type, BODIES)
OPERATIONS = {
    operation.label: operation
    for operation in (found.ok() for found in schemathesis.openapi.from_dict(openapi_schema()).get_all_operations())
}


def statuses(operation: str, mode: str, server: Any) -> set[int]:
    """Send requests that the description allows (`positive`) or not; validate the responses, and return statuses."""
    found = set()
    case_of = OPERATIONS[operation].as_strategy(generation_mode=schemathesis.GenerationMode(mode))

    @settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=case_of)
    def ask(case: schemathesis.Case) -> None:
        # The description says only in words which parameters go together, and that the body must be an image.
        checks = [schemathesis.checks.positive_data_acceptance]
        answer = case.call_and_validate(base_url=f"http://127.0.0.1:{server.port}", excluded_checks=checks)
        found.add(answer.status_code)

    ask()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
def test_valid_requests_are_served(server: Any, operation: str) -> None:
    found = statuses(operation, "positive", server)
    takes_image = operation in ("POST /api/synthesize", "POST /api/labels")
    expected = 404 if "{token}" in operation else 200  # tokens cannot be guessed
    assert expected in found
    assert found <= ({200, 400, 415, 422} if takes_image else {expected})


@pytest.mark.slow
@pytest.mark.parametrize("operation", [name for name, found in OPERATIONS.items() if found.query or "{" in name])
def test_invalid_requests_are_refused(server: Any, operation: str) -> None:
    found = statuses(operation, "negative", server)
    assert found & {400, 404}
    assert found <= {200, 400, 404, 415, 422}

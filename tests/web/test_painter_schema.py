"""The painter is asked as its own description says it can be, and otherwise."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip("uvicorn", reason="the extra 'web' is not installed")
schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")

from lab2pix.web.painter_kinds import KINDS  # noqa: E402 (what is above decides whether there is anything to test)
from lab2pix.web.painter_routes import describe  # noqa: E402


def label(ids: int, side: int) -> bytes:
    out = BytesIO()
    Image.fromarray(np.full((side, side), ids, np.uint8)).save(out, format="PNG")
    return out.getvalue()


BODIES = st.builds(label, st.integers(0, 13), st.integers(1, 20)) | st.binary(max_size=50)
for kind in KINDS:
    schemathesis.openapi.media_type(kind, BODIES)
OPERATIONS = {
    operation.label: operation
    for operation in (found.ok() for found in schemathesis.openapi.from_dict(describe()).get_all_operations())
}


def statuses(operation: str, mode: str, served: Any) -> set[int]:
    """Ask as a description allows, or does not; check each answer against it, and return their statuses."""
    found = set()
    case_of = OPERATIONS[operation].as_strategy(generation_mode=schemathesis.GenerationMode(mode))

    @settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=case_of)
    def ask(case: schemathesis.Case) -> None:
        # Which parameters go together, and that a body must be a picture, the description says in words alone.
        checks = [schemathesis.checks.positive_data_acceptance]
        answer = case.call_and_validate(base_url=f"http://127.0.0.1:{served.port}", excluded_checks=checks)
        found.add(answer.status_code)

    ask()
    return found


@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_is_described_is_served(served: Any, operation: str) -> None:
    found = statuses(operation, "positive", served)
    takes_picture = operation in ("POST /api/synthesize", "POST /api/labels")
    expected = 404 if "{token}" in operation else 200  # nobody guesses a token
    assert expected in found
    assert found <= ({200, 400, 415, 422} if takes_picture else {expected})


@pytest.mark.parametrize("operation", [name for name, found in OPERATIONS.items() if found.query or "{" in name])
def test_what_is_not_described_is_refused(served: Any, operation: str) -> None:
    found = statuses(operation, "negative", served)  # a 200 is an error there, unless nothing wrong was left to be sent
    assert found & {400, 404}
    assert found <= {200, 400, 404, 415, 422}

from __future__ import annotations

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.deadlines import TIMEOUT_HEADER

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def document(service):
    return service.client.get("/openapi.json").json()


def test_the_form_is_described_with_the_slots_of_the_models(service):
    call = document(service)["paths"]["/fuse"]["post"]
    form = call["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["required"] == ["image_a", "image_b"]
    fields = form["properties"]
    assert fields["image_a"]["format"] == fields["image_b"]["format"] == "binary"
    assert fields["model"]["enum"] == ["coded", "moody", "plain"]
    assert (fields["sharpen"]["maximum"], fields["sharpen"]["default"]) == (2, 1)
    assert set(fields) == {
        *("image_a", "image_b", "model", "strength", "sharpen", "smooth", "delay", "fault"),
        *("color", "format", "quality", "effort", "range16", "max_side"),
    }
    assert all(field["description"] for field in fields.values())
    assert (fields["quality"]["default"], fields["effort"]["default"]) == (90, "fast")
    assert fields["effort"]["enum"] == ["fast", "small", "smallest"]
    (header,) = call["parameters"]
    assert (header["name"], header["in"]) == (TIMEOUT_HEADER, "header")


def test_answers_and_problems_are_described(service):
    calls = document(service)["paths"]
    answers = calls["/fuse"]["post"]["responses"]
    assert set(answers) == {"200", "400", "404", "408", "413", "415", "422", "500", "503", "504"}
    assert set(answers["200"]["content"]) == {"image/png", "image/jpeg", "image/webp", "image/tiff"}
    for path, methods in calls.items():
        for call in methods.values():
            for status, answer in call["responses"].items():
                assert status == "200" or set(answer["content"]) == {"application/problem+json"}, path


def test_docs_page(service):
    assert "/openapi.json" in service.client.get("/docs").text


def test_generated_requests_get_described_answers(service):
    schema = schemathesis.openapi.from_url(f"{service.client.base_url}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) == 6
    for operation in operations:
        send_generated(operation)


def send_generated(operation):
    @settings(max_examples=20, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def send(case):
        # A generated limit of a microsecond is rightly answered 504.
        case.headers = {name: value for name, value in case.headers.items() if name != TIMEOUT_HEADER}
        case.call_and_validate(checks=CHECKS)

    send()

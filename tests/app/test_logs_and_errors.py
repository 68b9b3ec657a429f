from __future__ import annotations

import json
import logging

import pytest

from app import errors
from app.logs import JsonFormatter, TextFormatter, choose_request_id, request_id


def test_a_line_is_one_json_object_with_the_request_id():
    record = logging.makeLogRecord(
        {"name": "x", "levelname": "INFO", "msg": "two\n%s", "args": ("lines",), "model": "m"}
    )
    token = request_id.set("abc")
    try:
        line = JsonFormatter().format(record)
    finally:
        request_id.reset(token)
    assert "\n" not in line
    entry = json.loads(line)
    assert entry["message"] == "two\nlines"
    assert (entry["request_id"], entry["model"], entry["level"]) == ("abc", "m", "info")


def test_exceptions_are_part_of_the_line():
    try:
        raise ValueError("cause")
    except ValueError as error:
        info = (ValueError, error, error.__traceback__)
    entry = json.loads(JsonFormatter().format(logging.makeLogRecord({"msg": "failed", "exc_info": info})))
    assert "ValueError: cause" in entry["exception"]


def test_the_number_of_a_worker_is_in_each_line():
    record = logging.makeLogRecord({"msg": "m"})
    assert json.loads(JsonFormatter(0).format(record))["worker"] == 0
    assert "worker" not in json.loads(JsonFormatter().format(record))


def test_text_for_people_has_the_same_fields():
    record = logging.makeLogRecord({"name": "x", "levelname": "INFO", "msg": "said", "model": "m", "created": 0.5})
    token = request_id.set("abc")
    try:
        line = TextFormatter().format(record)
    finally:
        request_id.reset(token)
    assert line == "1970-01-01T00:00:00.500+00:00 info     x said request_id=abc model=m"


def test_text_from_a_caller_makes_no_line_of_its_own():
    record = logging.makeLogRecord({"name": "x", "msg": "a\nb", "detail": "c\r\x1b[31m é"})
    line = TextFormatter().format(record)
    assert line.endswith("a\\nb detail=c\\r\\x1b[31m é")
    assert line.isprintable()


def test_an_exception_follows_the_text():
    try:
        raise ValueError("cause")
    except ValueError as error:
        info = (ValueError, error, error.__traceback__)
    first, *rest = (
        TextFormatter().format(logging.makeLogRecord({"name": "x", "msg": "failed", "exc_info": info})).splitlines()
    )
    assert first.endswith("failed")
    assert rest[-1] == "ValueError: cause"


@pytest.mark.parametrize("offered", [None, "", "a" * 65, "two words", 'x"y', "line\nbreak", "ä"])
def test_strange_request_ids_are_replaced(offered):
    assert choose_request_id(offered) != offered
    assert len(choose_request_id(offered)) == 16


def test_sane_request_ids_are_kept():
    assert choose_request_id("run-7:3.b_C") == "run-7:3.b_C"


def test_problem_documents_follow_the_standard():
    document = errors.problem_document(errors.BadFieldError("quality", "it is bad.", allowed="1 to 100"), "id1")
    assert document["type"] == "urn:pairfuse:problem:bad-field"
    assert document["status"] == 422
    assert document["errors"] == [{"field": "quality", "allowed": "1 to 100"}]
    assert document["request_id"] == "id1"
    assert errors.plain_problem(405, "no", "id2")["title"] == "Method Not Allowed"

"""Messages of the live protocol: strict, bounded, and the same in code, schema and docs."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swwatch.client import protocol
from swwatch.client.protocol import Frame, ProtocolError, parse_client, parse_server
from swwatch.engine.trace import Watched
from swwatch.live.messages import Messages

ROOT = Path(__file__).resolve().parents[2]
DOC = (ROOT / "docs/protocol.md").read_text()


def test_the_schema_in_the_docs_is_that_of_the_code():
    written = json.loads((ROOT / "docs/protocol.schema.json").read_text())
    assert written == json.loads(json.dumps(protocol.schemas())), "run: python -m swwatch.client.protocol"


@pytest.mark.parametrize("code", get_args(protocol.Code))
def test_every_error_code_is_explained(code):
    assert re.search(rf"^\| `{code}` \|", DOC, re.M)


@pytest.mark.parametrize("reason", get_args(protocol.Reason))
def test_every_reason_to_end_is_explained(reason):
    assert f"| `{reason}` |" in DOC


def test_every_field_of_every_message_is_named():
    for side in ("client", "server"):
        for name, schema in protocol.schemas()[side]["$defs"].items():
            for field in set(schema["properties"]) - {"type", "kind"}:
                assert re.search(rf"[`\"]{field}[`\"]", DOC), f"{name}.{field}"


def test_the_examples_in_the_docs_are_valid():
    lines = [line[3:].split("     ")[0] for line in DOC.splitlines() if line.startswith(("-> {", "<- {"))]
    whole = [(line[0] == "{", line) for line in lines if "..." not in line]
    assert len(whole) >= 4
    for line in [line for _, line in whole]:
        parse = parse_client if json.loads(line)["type"] in ("open", "end") and "reason" not in line else parse_server
        assert parse(line).type == json.loads(line)["type"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "[" * 5000,
        "null",
        '{"type":"nothing"}',
        '{"type":"open"}',
        '{"type":"open","version":true}',
        '{"type":"open","version":1,"rate":NaN}',
        '{"type":"open","version":1,"rate":0}',
        '{"type":"open","version":1,"extra":1}',
        '{"type":"open","version":1,"source":{"kind":"file","id":"x"}}',
        '{"type":"ask","question":""}',
        '{"type":"ask","question":"\\ud800"}',
        '{"type":"ask"}',
        '{"type":"ask","question":7}',
    ],
)
def test_what_is_no_message_is_told_so(text):
    with pytest.raises(ProtocolError) as caught:
        parse_client(text)
    assert caught.value.code == "bad_message" and 0 < len(caught.value.message) <= 300


@given(st.text(max_size=200) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_no_text_does_more_than_a_protocol_error(text):
    try:
        parse_client(text)
    except ProtocolError as error:
        assert error.code == "bad_message"


@given(
    st.integers(0, protocol.MAX_FRAME_NUMBER),
    st.floats(-protocol.MAX_TIMESTAMP_S, protocol.MAX_TIMESTAMP_S),
    st.binary(min_size=1, max_size=50),
)
def test_frames_survive_the_wire(number, timestamp_s, data):
    assert Frame.parse(bytes(Frame(number, timestamp_s, data))) == Frame(number, timestamp_s, data)


@given(st.binary(max_size=60))
def test_no_bytes_do_more_than_a_protocol_error(message):
    for data in (message, protocol.MAGIC + message):
        try:
            assert abs(Frame.parse(data).timestamp_s) <= protocol.MAX_TIMESTAMP_S
        except ProtocolError as error:
            assert error.code == "bad_frame"


@pytest.mark.parametrize("timestamp_s", [float("nan"), float("inf"), -1e300])
def test_a_frame_without_a_usable_time_is_refused(timestamp_s):
    with pytest.raises(ProtocolError, match="timestamp"):
        Frame.parse(bytes(Frame(0, timestamp_s, b"x")))


def test_a_watched_step_says_what_was_not_looked_at():
    whole = Messages().message(Watched(3, 3.5, 3.6, 0, (2, 2), None))
    part = Messages().message(Watched(3, 3.5, 3.6, 2, (2, 2), (0, 3)))
    assert (whole.grid, whole.kept) == (None, None) and (part.grid, part.kept) == ((2, 2), (0, 3))
    assert parse_server(part.wire()) == part

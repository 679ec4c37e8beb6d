"""What OpenAI's requests ask, and what an answer's text is: without a server."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swwatch.client.protocol import ProtocolError, Token, Turn
from swwatch.policies.choose import Greedy, Sampling, parse_choose
from swwatch.rules.systems import ELLIPSIS
from swwatch.serve.folder import Folder
from swwatch.serve.openai import request as form
from swwatch.serve.openai.answer import Stops, Words
from swwatch.serve.openai.events import parse_event
from swwatch.serve.openai.messages import Reader
from swwatch.serve.openai.request import Request, parse
from swwatch.serve.settings import Limits
from tests.helpers.server_process import picture

FIELDS = [*Request.model_fields, "n", "tools", "user", "wrong"]
KEYS = [
    "role",
    "content",
    "type",
    "text",
    "image_url",
    "video_url",
    "file",
    "url",
    "file_id",
    "file_data",
    "timestamp_s",
]
WORDS = [
    "user",
    "system",
    "text",
    "image_url",
    "video_url",
    "file",
    "data:image/png;base64,AAAA",
    "data:,",
    "file:///x",
]
WORDS += ["http://x", "<1.5 seconds>", "data:video/mp4;base64,AAAA", "data:video/jpeg;base64,AA==,AA==", "\0", "ü"]
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS) | st.text(max_size=5)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=6,
)
PART = st.fixed_dictionaries({"type": st.sampled_from(WORDS[2:6])}, optional={key: VALUES for key in KEYS[3:]})
MESSAGE = st.fixed_dictionaries({"role": st.sampled_from(WORDS[:2]), "content": st.lists(PART, max_size=3) | VALUES})


@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4), st.lists(MESSAGE, max_size=3))
def test_whatever_is_sent_is_understood_or_refused(fields, messages):
    body = json.dumps({"model": "group", "messages": messages} | fields).encode()
    try:
        Reader(Limits(), Folder(None), 2.0).read(parse(body).messages)
    except ProtocolError as error:
        assert error.message and len(error.message) < 400


@given(st.sampled_from(["session.update", "conversation.item.create", "response.create", "x"]), VALUES, VALUES)
def test_whatever_event_comes_is_understood_or_refused(kind, value, other):
    try:
        parse_event(json.dumps({"type": kind, "session": value, "item": other, "response": value}))
    except ProtocolError as error:
        assert error.message and len(error.message) < 400


def request(**fields) -> Request:
    return parse(json.dumps({"model": "group", "messages": [{"role": "user", "content": "x"}]} | fields).encode())


@pytest.mark.parametrize("own", ["greedy:1.3", "sampling:0.9:penalty=1.05:max_new_tokens=20"])
def test_tokens_are_chosen_as_the_form_does_but_for_what_is_asked(own):
    own = parse_choose(own)
    assert request().choose(own) == request(user="me", n=1.0, tool_choice="auto", seed=None).choose(own) == own
    assert request(repetition_penalty=1.5).choose(own).penalty == 1.5
    likeliest = request(temperature=0, top_p=0.5, seed=7).choose(own)
    assert isinstance(likeliest, Greedy) and (likeliest.penalty, likeliest.max_new_tokens) == (
        own.penalty,
        own.max_new_tokens,
    )
    drawn = request(temperature=0.5, top_p=0.9, top_k=3, seed=7).choose(own)
    assert isinstance(drawn, Sampling) and drawn.penalty == own.penalty
    assert (drawn.temperature, drawn.top_p, drawn.top_k, drawn.seed) == (0.5, 0.9, 3, 7)


def test_the_newer_name_of_the_limit_wins():
    assert request(max_tokens=5).limit == 5 and request(max_tokens=5, max_completion_tokens=3).limit == 3
    assert request().limit is None


def test_pictures_are_counted_from_the_one_before():
    def part(**more) -> dict:
        url = f"data:image/jpeg;base64,{base64.b64encode(picture()).decode()}"
        return {"type": "image_url", "image_url": {"url": url}, **more}

    parts = [part(), part(), part(timestamp_s=7), {"type": "text", "text": " <9.25 seconds>\n"}, part(), part()]
    asked = Reader(Limits(), Folder(None), 4.0).read(request(messages=[{"role": "user", "content": parts}]).messages)
    assert [at_s for at_s, _ in asked.pictures] == [0.0, 0.25, 7.0, 9.25, 9.5] and asked.question is None
    back = request(messages=[{"role": "user", "content": [part(timestamp_s=3), part(timestamp_s=1)]}])
    with pytest.raises(ProtocolError, match="1 s behind one of 3 s"):
        Reader(Limits(), Folder(None), 4.0).read(back.messages)


@pytest.mark.parametrize("address", ["file://[", "file://elsewhere/x.mp4", "file://[::1]/x.mp4"])
def test_an_address_that_leads_to_no_file_of_this_machine_is_refused(address, tmp_path):
    with pytest.raises(ProtocolError, match="reads no such address"):
        Folder(tmp_path).name_of(address)


# --- an answer's text --------------------------------------------------------------------------------------------


@given(st.lists(st.text("ab.", max_size=3), max_size=12), st.text("ab.", min_size=1, max_size=4))
def test_a_stop_cuts_the_text_wherever_tokens_end(pieces, stop):
    stops, told = Stops([stop]), ""
    for piece in pieces:
        text, ends = stops.take(piece)
        told += text
        if ends:
            break
    assert told + stops.rest == "".join(pieces).split(stop)[0]


def said(*events: str | None, in_turns: bool = True) -> list[str]:
    """Pieces of text; None ends a turn."""
    words, got = Words(in_turns), []
    for event in events:
        times = {"step": 0, "newest_visible_step": 0, "t_frame_s": 0.0, "t_emit_s": 0.0, "lag_s": 0.0, "index": 0}
        if event is None:
            message = Turn(turn=0, start_s=0.0, end_s=1.0, text="", t_s=1.0)
        else:
            message = Token(text=event, **times)
        got.append(words.of(message))
    return got


def test_dots_at_the_end_of_a_turn_are_no_words_and_turns_do_not_run_together():
    turn = (ELLIPSIS, "", None)  # "" is the end of the turn
    assert said("A", " dog", *turn, *turn, "runs", *turn) == ["A", " dog", "", "", "", "", "", "", " runs", "", "", ""]
    assert "".join(said(*turn, " A", ELLIPSIS, " dog", *turn, " runs", None)) == " A ... dog runs"
    assert "".join(said("A", ELLIPSIS, ELLIPSIS, "", None)) == f"A{ELLIPSIS}", "one says it, the other is a word"
    assert said("A", ELLIPSIS, "", in_turns=False) == ["A", ELLIPSIS, ""], "a narration has no such mark"


@pytest.mark.parametrize(
    "body", [b"[" * 200_000, b'{"messages":[' + b"{}," * 200_000 + b"{}]}", b"[" + b"1," * 200_000]
)
def test_a_request_of_too_many_values_is_refused_before_they_are_made(body, monkeypatch):
    """64 MB of them became several GB."""
    monkeypatch.setattr(form, "from_json", lambda *_, **__: pytest.fail("they were made"))
    with pytest.raises(ProtocolError) as caught:
        parse(body)
    assert caught.value.code == "too_large"

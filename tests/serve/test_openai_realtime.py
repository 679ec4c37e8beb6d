"""OpenAI's realtime form of `swwatch serve`, through the `openai` package and as bare WebSocket messages."""

import base64
import json
import time

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.helpers.mutation import mutated
from tests.helpers.server_process import picture
from tests.helpers.thread_server import ThreadServer

openai = pytest.importorskip("openai", reason="pip install -e '.[test]' brings the openai package")
TOKEN = "a-good-token"
KEY = {"additional_headers": {"Authorization": f"Bearer {TOKEN}"}}
WAIT_S = 60
LIMITS = {"max_sessions": 2, "max_frame_bytes": 100_000, "max_tokens": 60, "grace_s": 0.2, "max_message_bytes": 1000}


def address_of(server) -> str:
    return f"{server.url.replace('http', 'ws', 1)}/v1/realtime"


def wait_until_free(server) -> None:
    deadline = time.monotonic() + 30
    while server.sessions and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.fixture(scope="module")
def server(tiny_checkpoint):
    made = ThreadServer(tiny_checkpoint, ["group", "livecc"], token=TOKEN, **LIMITS)
    yield made
    made.close()


@pytest.fixture
def realtime(server):
    """realtime(model) -> a connection of the `openai` package."""
    made = []

    def open_one(model: str = "group"):
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=TOKEN)
        made.append(client.realtime.connect(model=model).enter())
        return made[-1]

    yield open_one
    for one in made:
        one.close()


@pytest.fixture
def socket(server):
    """A bare WebSocket, as a browser opens it."""
    protocols = ["realtime", f"openai-insecure-api-key.{TOKEN}"]
    with connect(address_of(server), subprotocols=protocols, proxy=None) as made:
        yield made


def image(number: int = 0, **more) -> dict:
    url = f"data:image/jpeg;base64,{base64.b64encode(picture(number)).decode()}"
    return {"type": "input_image", "image_url": url, **more}


def item(*content: dict, role: str = "user") -> dict:
    return {"type": "message", "role": role, "content": list(content)}


def words(text: str) -> dict:
    return {"type": "input_text", "text": text}


def until(connection, *kinds: str) -> list:
    """Events up to the first of these types."""
    got = []
    while not got or got[-1].type not in kinds:
        got.append(connection.recv())
    return got


def of(got: list, kind: str) -> list:
    return [event for event in got if event.type == kind]


def next_of(socket, *kinds: str) -> dict:
    while (event := json.loads(socket.recv(WAIT_S)))["type"] not in kinds:
        pass
    return event


def test_frames_go_in_and_words_come_out_with_their_seconds(realtime):
    connection = realtime()
    created = connection.recv()
    assert (created.type, created.session.model, created.session.output_modalities) == (
        "session.created",
        "group",
        ["text"],
    )
    assert created.session.swwatch["fps"] == 2.0 and created.session.swwatch["schedule"] == "wait-k:3"
    config = {"type": "realtime", "instructions": "Be brief.", "output_modalities": ["text"], "schedule": "wait-k:2"}
    connection.session.update(session=config)
    updated = connection.recv()
    assert updated.type == "session.updated" and updated.session.instructions == "Be brief."
    connection.conversation.item.create(item=item(words("What moves?"), image(0, timestamp_s=7.0)))
    for number in range(1, 6):
        connection.conversation.item.create(item=item(image(number, timestamp_s=7.0 + number / 2)))
    connection.send({"type": "session.close"})
    got = until(connection, "session.closed")

    opened = of(got, "session.updated")[0].session.swwatch
    assert (opened["question"], opened["schedule"], opened["engine"]) == ("What moves?", "wait-k:2", "serial")
    assert len(of(got, "conversation.item.added")) == len(of(got, "conversation.item.done")) == 6
    assert [event.step for event in of(got, "swwatch.watched")] == [0, 1, 2]
    assert sum(event.frames for event in of(got, "swwatch.ack")) == 6
    deltas = of(got, "response.output_text.delta")
    for step in (0, 1):
        said = [delta for delta in deltas if delta.swwatch["step"] == step]
        assert 1 <= len(said) <= 2 and all(delta.swwatch["seen_s"] == step + 1 for delta in said)
    (done,) = of(got, "response.done")
    assert done.response.status == "completed" and got[-1].reason == "finished"
    (output,) = done.response.output
    text = "".join(delta.delta for delta in deltas)
    assert output.content[0].text == of(got, "response.output_text.done")[0].text == text and len(text) > 10
    assert done.response.usage.input_token_details.image_tokens == 3 * 4
    assert done.response.usage.output_tokens == len(deltas)
    order = [event.type for event in got if event.type.startswith("response.") and "delta" not in event.type]
    assert order == [
        *("response.created", "response.output_item.added", "response.content_part.added"),
        *("response.output_text.done", "response.content_part.done", "response.output_item.done", "response.done"),
    ]
    assert {delta.response_id for delta in deltas} == {done.response.id}
    assert len({event.event_id for event in got}) == len(got)


def test_a_cancelled_response_is_over_and_another_goes_on_watching(realtime):
    connection = realtime()
    for number in range(2):
        connection.conversation.item.create(item=item(image(number, timestamp_s=number / 2)))
    until(connection, "response.output_text.delta")
    connection.response.cancel()
    assert of(until(connection, "response.done"), "response.done")[0].response.status == "cancelled"
    for number in range(2, 6):
        connection.conversation.item.create(item=item(image(number, timestamp_s=number / 2)))
    got = until(connection, "swwatch.watched")
    got += until(connection, "swwatch.watched")
    connection.response.cancel()
    got += until(connection, "error")
    assert "no response to cancel" in got[-1].error.message and not of(got, "response.output_text.delta")
    connection.response.create()
    created = of(until(connection, "response.created"), "response.created")[0].response
    connection.conversation.item.create(item=item(words("And now?")))
    for number in range(6, 8):
        connection.conversation.item.create(item=item(image(number, timestamp_s=number / 2)))
    got = until(connection, "swwatch.asked")
    assert of(got, "response.done")[0].response.id == created.id, "a question that takes effect begins another"
    delta = of(until(connection, "response.output_text.delta"), "response.output_text.delta")[0]
    assert delta.response_id != created.id and delta.swwatch["step"] == 3


def test_each_chat_turn_is_a_response_of_its_own(realtime):
    connection = realtime("livecc")
    for number in range(8):
        connection.send({"type": "input_image_buffer.append", "image": base64.b64encode(picture(number)).decode()})
        connection.session.update(session={"type": "realtime"}) if number == 0 else None
    connection.send({"type": "session.close"})
    got = until(connection, "session.closed")
    turns = [event for event in of(got, "swwatch.turn") if event.text]
    done = of(got, "response.done")
    assert len(done) == len(turns) >= 1 and all(event.response.status == "completed" for event in done)
    assert "begun" in of(got, "error")[0].error.message
    assert not of(got, "conversation.item.added"), "nothing was put around these pictures"


def test_pictures_without_a_time_come_at_the_rate_that_was_told(socket):
    socket.send(json.dumps({"type": "session.update", "session": {"rate": 1.0}}))
    for number in range(3):
        socket.send(json.dumps({"type": "conversation.item.create", "item": item(image(number))}))
    socket.send(json.dumps({"type": "session.close"}))
    watched = [next_of(socket, "swwatch.watched")["step"] for _ in range(3)]
    assert watched == [0, 1, 2] and next_of(socket, "session.closed")["reason"] == "finished"
    with pytest.raises(ConnectionClosed) as closed:
        next_of(socket, "never")
    assert closed.value.rcvd.code == 1000


def new_item(*content: dict, **how) -> dict:
    return {"type": "conversation.item.create", "item": item(*content, **how)}


def update(**session) -> dict:
    return {"type": "session.update", "session": session}


def shown(url: str) -> dict:
    return new_item({"type": "input_image", "image_url": url})


@pytest.mark.parametrize(
    "told, param, event",
    [
        ("JSON", None, "{"),
        ("type", "type", {"type": "response.forget"}),
        ("output_modalities", "session.output_modalities[0]", update(output_modalities=["audio"])),
        ("tools", "session.tools", update(tools=[{"type": "function", "name": "f"}])),
        ("max_output_tokens", "session.max_output_tokens", update(max_output_tokens=5)),
        ("schedule", "session.schedule", update(schedule="never")),
        ("trained", "session.schedule", update(schedule="gate")),
        ("engine", "session.engine", update(engine="steam")),
        ("<|im_end|>", "session.instructions", update(instructions="x<|im_end|>")),
        ("words may have", "session.instructions", update(instructions="x" * 1001)),
        ("words may have", "item.content", new_item(words("x" * 1001), image(0))),
        ("<|im_end|>", "item.content", new_item(words("x<|im_end|>"))),
        ("role", "item.role", new_item(words("x"), role="assistant")),
        ("pictures are a user's", "item.role", new_item(words("x"), image(0), role="system")),
        ("input_text", "item.content[1].type", new_item(words("x"), {"type": "input_audio", "audio": ""})),
        ("content", "item.content", new_item()),
        ("base64", "item.content[0].image_url", shown("data:image/png;base64,%%%")),
        ("a picture may have", "image", {"type": "input_image_buffer.append", "image": "A" * 133_600}),
        ("an event is text of at most", None, {"type": "input_image_buffer.append", "image": "A" * 150_000}),
        ("data URL", "item.content[0].image_url", shown("http://x")),
        ("of a picture", "item.content[0].image_url", shown("data:text/plain;base64,AAAA")),
        ("neither JPEG", "image", {"type": "input_image_buffer.append", "image": "AAAA"}),
        ("nothing to speak about", None, {"type": "session.close"}),
    ],
)
def test_mistakes_are_told_with_their_place_and_the_session_goes_on(socket, told, param, event):
    socket.send(event if isinstance(event, str) else json.dumps(event))
    error = next_of(socket, "error")["error"]
    assert told in error["message"] and error["type"] == "invalid_request_error", error
    assert (error["param"], error["event_id"]) == (param, None)
    for number in range(2):
        socket.send(json.dumps(new_item(image(number, timestamp_s=number / 2 + 1e6))))
    assert next_of(socket, "response.output_text.delta")["delta"]


def test_a_mistake_names_the_event_that_it_is_in(realtime):
    connection = realtime()
    bad = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}
    connection.conversation.item.create(event_id="mine", item=item(words("What moves?"), image(0), bad))
    got = until(connection, "error")
    assert (got[-1].error.event_id, got[-1].error.param) == ("mine", "item.content[2].image_url")
    (opened,) = of(got, "session.updated")
    assert opened.session.swwatch["question"] == "What moves?", "the picture before it has opened the session"
    connection.conversation.item.create(event_id="other", item=item(words("x" * 1001)))
    error = until(connection, "error")[-1].error
    assert (error.event_id, error.param, error.code) == ("other", "item.content", "too_large")


def test_whatever_events_become_none_is_a_fault_of_the_servers(server):
    good = [update(instructions="Be brief.", schedule="wait-k:1", rate=2.0), new_item(words("What?"), image(0))]
    good += [{"type": "input_image_buffer.append", "image": base64.b64encode(picture(1)).decode()}]
    good += [{"type": "response.cancel"}, {"type": "response.create", "response": {"input": []}}, good[1]]
    wait_until_free(server)
    for seed in range(8):
        with connect(address_of(server), proxy=None, **KEY) as socket:
            for number, event in enumerate(good):
                socket.send(json.dumps(mutated(event, 100 * seed + number) if number % 3 else event))
            socket.send(json.dumps({"type": "session.close"}))
            while (event := json.loads(socket.recv(WAIT_S)))["type"] != "session.closed":
                assert event["type"] != "error" or event["error"]["type"] == "invalid_request_error", (seed, event)
                if event["type"] == "error" and event["error"]["code"] == "not_open":
                    break


def test_a_stranger_an_unknown_model_and_one_too_many_are_turned_away(server, realtime):
    address = address_of(server)

    def refusal(address: str, **how) -> tuple[str, int, str | None]:
        with connect(address, proxy=None, **how) as stranger:
            error = next_of(stranger, "error")["error"]
            with pytest.raises(ConnectionClosed) as closed:
                next_of(stranger, "never")
            return error["type"], closed.value.rcvd.code, error["param"]

    assert refusal(address) == ("authentication_error", 4401, None)
    assert refusal(address, subprotocols=["realtime", "openai-insecure-api-key.wrong-token"])[1] == 4401
    assert refusal(f"{address}?model=gpt-4o", **KEY) == ("not_found_error", 4400, "model")
    assert refusal(address, origin="https://evil.example", **KEY) == ("permission_error", 4403, None)
    wait_until_free(server)
    for _ in range(2):
        connection = realtime()
        connection.conversation.item.create(item=item(image(0)))
        until(connection, "conversation.item.done")
    third = realtime()
    third.conversation.item.create(item=item(image(0)))
    assert until(third, "error")[-1].error.type == "rate_limit_error"

"""A session over a real WebSocket to a real server process: from open to end, and all that may come between."""

import struct
import time
from socket import SHUT_RDWR

import pytest
from websockets.exceptions import ConnectionClosed


def speak(connection, steps: int = 2, start: int = 0) -> None:
    """Send so many steps of frames, and wait until they are watched."""
    for number in range(2 * start, 2 * (start + steps)):
        connection.frame(number)
    while len(connection.of("watched")) < steps:
        connection.next()


def wait_for_room(server) -> None:
    """Until the sessions of earlier tests, whose connections broke, are over."""
    while server.json("/health")["sessions"]:
        time.sleep(0.1)


def finish(connection) -> None:
    connection.send(type="end")
    connection.until("end")


def test_a_session_from_open_to_end(client):
    connection = client(open={"schedule": "wait-k:2", "question": "What moves?"})
    opened = connection.until("opened")
    assert (opened.variant, opened.schedule, opened.question) == ("group", "wait-k:2", "What moves?")
    assert opened.engine and opened.why and not opened.resumed and len(opened.session) >= 20
    speak(connection, steps=3)
    connection.send(type="end")
    end = connection.until("end")
    assert (end.reason, end.recording) == ("finished", None) and connection.closed() == 1000

    tokens = connection.of("token")
    assert [token.index for token in tokens] == list(range(end.tokens)) and end.tokens > 6
    assert [sum(token.step == step for token in tokens) for step in range(2)] == [2, 2]
    for token in tokens:
        assert token.newest_visible_step <= token.step and token.lag_s == pytest.approx(
            token.t_emit_s - token.t_frame_s
        )
        assert token.lag_s >= 0
    assert [watched.step for watched in connection.of("watched")] == [0, 1, 2]
    acks = connection.of("ack")
    assert sum(ack.frames for ack in acks) == 6 and acks[-1].frame == 5
    assert all(ack.taken and ack.dropped == 0 and not ack.reason for ack in acks)
    numbers = [message.n for message in connection.of("watched", "token", "end")]
    assert numbers == list(range(len(numbers))), "numbered without gaps, in the order sent"


def test_what_open_leaves_out_is_the_servers_own(server, client):
    info = server.json("/api/info")
    connection = client(open={})
    opened = connection.until("opened")
    assert (opened.variant, opened.schedule, opened.question, opened.rate) == (
        info["variants"][0],
        info["schedule"],
        info["question"],
        2.0,
    )
    assert opened.limits.model_dump().items() <= info["limits"].items()
    connection.send(type="stop")
    assert connection.until("end").reason == "stopped"


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_pictures_of_other_forms_and_changing_sizes_are_taken(client, picture, form):
    connection = client(open={})
    for number, side in enumerate((56, 56, 84, 84)):
        connection.frame(number, data=picture(number, side, 112, form))
    while len(connection.of("watched")) < 2:
        connection.next()
    finish(connection)
    assert all(ack.taken for ack in connection.of("ack"))


def test_timestamps_have_any_zero_and_repeated_ones_are_told(client):
    connection = client(open={})
    for number, timestamp_s in enumerate((1.7e9, 1.7e9, 1.7e9 + 0.5)):
        connection.frame(number, timestamp_s)
    connection.until("watched")
    finish(connection)
    refused = [ack for ack in connection.of("ack") if not ack.taken]
    assert all(ack.reason == "repeated" for ack in refused) and len(refused) <= 1  # or merged into the next
    assert connection.of("watched")[0].arrival_s >= 0


def test_a_question_in_mid_speech_is_told_and_answered_from_the_next_step(client):
    connection = client(open={})
    speak(connection)
    connection.send(type="ask", question="And now?")
    for number in (4, 5):
        connection.frame(number)
    asked = connection.until("asked")
    assert (asked.question, asked.step) == ("And now?", 2)
    assert connection.until("token").step == 2
    finish(connection)


def test_chat_markup_in_a_question_is_refused_and_the_session_goes_on(client):
    connection = client(open={})
    connection.send(type="ask", question="x<|im_end|>y")
    error = connection.until("error")
    assert error.code == "unsupported" and not error.fatal and "<|im_end|>" in error.message
    speak(connection)
    finish(connection)


def test_a_paused_session_watches_in_silence_and_speaks_again(client):
    connection = client(open={})
    connection.until("opened")
    connection.send(type="pause")
    speak(connection, steps=3)
    assert connection.of("token") == []
    connection.send(type="resume")
    for number in (6, 7):
        connection.frame(number)
    assert connection.until("token").step >= 2
    finish(connection)


def test_stop_ends_at_once(client):
    connection = client(open={})
    speak(connection)
    connection.send(type="stop")
    assert connection.until("end").reason == "stopped" and connection.closed() == 1000


def test_stats_come_every_second_and_ping_is_answered(client):
    connection = client(open={})
    speak(connection)
    connection.send(type="ping")
    connection.until("pong")
    stats = connection.until("stats")
    while stats.tokens < 3:
        stats = connection.until("stats")
    assert (stats.frames_in, stats.steps_watched, stats.frames_dropped) == (4, 2, 0)
    assert stats.lag_s > 0 and stats.frame_rate >= 0
    finish(connection)


def test_a_sender_faster_than_the_model_is_told_what_was_dropped(client):
    """300 s of frames in one go: the queue drops its oldest steps, says so, and nothing is lost in silence."""
    connection = client(open={})
    for number in range(300):
        connection.frame(number, 2.0 * number, picture_of(connection, number % 3))
    connection.send(type="end")
    end = connection.until("end", timeout_s=120)
    assert end.reason == "finished"
    dropped = connection.of("dropped")
    assert sum(ack.frames for ack in connection.of("ack")) == 300
    assert dropped and dropped[-1].total == sum(event.steps for event in dropped)
    assert connection.of("ack")[-1].dropped <= dropped[-1].total


def picture_of(connection, number: int, made={}) -> bytes:  # noqa: B006  (made once)
    from io import BytesIO

    from PIL import Image

    if number not in made:
        out = BytesIO()
        Image.new("RGB", (56, 56), (80 * number, 0, 0)).save(out, "PNG")
        made[number] = out.getvalue()
    return made[number]


def test_what_is_wrong_before_open_is_told_and_open_may_still_come(client, picture):
    connection = client()
    connection.send(type="ask", question="Who?")
    assert connection.until("error").code == "not_open"
    connection.frame(0)
    assert connection.until("error").code == "not_open"
    connection.socket.send("{")
    assert connection.until("error").code == "bad_message"
    connection.send(type="open", version=1)
    connection.until("opened")
    connection.send(type="open", version=1)
    assert connection.until("error").code == "already_open"
    speak(connection, steps=1)
    finish(connection)


@pytest.mark.parametrize(
    "wrong, code",
    [
        ({"version": 2}, "version"),
        ({"variant": "nobody"}, "unsupported"),
        ({"engine": "steam"}, "unsupported"),
        ({"schedule": "sometimes"}, "unsupported"),
        ({"policy": "block"}, "unsupported"),
        ({"question": "<|im_end|>"}, "unsupported"),
        ({"question": "x" * 2000}, "too_large"),
        ({"resume": "nobody"}, "not_found"),
        ({"source": {"kind": "upload", "id": "nobody"}}, "not_found"),
        ({"source": {"kind": "file", "name": "nobody.mp4"}}, "not_found"),
        ({"source": {"kind": "url", "url": "http://127.0.0.1/x"}}, "unsupported"),
    ],
)
def test_an_open_that_cannot_be_is_fatal(client, server, wrong, code):
    connection = client()
    connection.send(**{"type": "open", "version": 1} | wrong)
    error = connection.next()
    assert (error.type, error.code, error.fatal) == ("error", code, True) and connection.closed() == 4400
    assert server.json("/health")["status"] == "ok"


def test_bad_frames_are_told_and_the_session_goes_on(client, picture):
    whole = picture()
    connection = client(open={})
    connection.until("opened")
    header = struct.Struct(">4sId")
    wrong = [
        (b"", "bad_frame"),
        (b"SWF1", "bad_frame"),
        (b"SWF2" + bytes(12) + whole, "bad_frame"),
        (header.pack(b"SWF1", 7, float("nan")) + whole, "bad_frame"),
        (header.pack(b"SWF1", 7, 0.0) + b"no picture", "bad_frame"),
        (header.pack(b"SWF1", 7, 0.0) + whole[:200], "bad_frame"),
        (header.pack(b"SWF1", 7, 0.0) + picture(0, 4000, 2, "PNG"), "bad_frame"),  # too narrow for the model
        (header.pack(b"SWF1", 7, 0.0) + picture(0, 1001, 1000, "JPEG")[:400_000], "too_many_pixels"),
        (header.pack(b"SWF1", 7, 0.0) + bytes(500_001), "too_large"),
    ]
    for message, code in wrong:
        connection.socket.send(message)
        error = connection.until("error")
        assert (error.code, error.fatal) == (code, False), message[:20]
    assert sum(ack.frames for ack in connection.of("ack") if not ack.taken) == 5
    speak(connection)
    finish(connection)


def test_a_text_over_its_limit_is_told_and_one_far_over_it_closes_the_socket(client):
    connection = client(open={})
    connection.socket.send("x" * 20_000)
    assert connection.until("error").code == "too_large"
    connection.socket.send("x" * 1_100_000)
    assert connection.closed() == 1009


def test_a_hundred_mistakes_are_enough(client):
    connection = client(open={})
    connection.until("opened")
    for _ in range(120):
        try:
            connection.socket.send("{")
        except ConnectionClosed:
            break
    while not (error := connection.until("error", "end")).fatal:
        pass
    assert error.code == "bad_message" and connection.until("end").reason == "error"
    assert connection.closed() == 4400, "as docs/protocol.md has it, in a session as before one"


def test_a_broken_connection_goes_on_where_it_was(client):
    first = client(open={})
    opened = first.until("opened")
    speak(first)
    seen = max(message.n for message in first.of("watched", "token"))
    first.socket.socket.shutdown(SHUT_RDWR)  # no goodbye
    second = client(open={"resume": opened.session, "seen": seen})
    again = second.until("opened")
    assert again.resumed and again.missed == 0 and again.session == opened.session
    for number in (4, 5):
        second.frame(number)
    finish(second)
    both = [message for one in (first, second) for message in one.got if getattr(message, "n", None) is not None]
    assert [message.n for message in both] == list(range(len(both))), "nothing lost, nothing twice"
    assert [message.step for message in both if message.type == "watched"] == [0, 1, 2]


def test_what_came_before_can_be_had_again_even_after_the_end(client):
    first = client(open={})
    session = first.until("opened").session
    speak(first)
    first.socket.socket.shutdown(SHUT_RDWR)
    second = client(open={"resume": session})
    finish(second)
    third = client(open={"resume": session, "seen": -1})
    assert third.until("opened").resumed
    third.until("end")
    assert [m.wire() for m in third.got if m.type in ("token", "watched", "end")] == [
        m.wire() for m in second.got if m.type in ("token", "watched", "end")
    ]


def test_a_second_connection_takes_the_session_over(client):
    first = client(open={})
    session = first.until("opened").session
    speak(first)
    second = client(open={"resume": session, "seen": 0})
    assert second.until("opened").resumed
    assert first.until("end").reason == "replaced" and first.closed() == 4409
    speak(second, steps=3, start=2)
    finish(second)


def test_who_takes_over_is_told_all_and_the_connection_that_still_stands_nothing_of_it(client):
    first = client(open={})
    session = first.until("opened").session
    speak(first)
    second = client(open={"resume": session, "seen": -1})
    second.until("opened")
    finish(second)
    numbers = [message.n for message in second.got if getattr(message, "n", None) is not None]
    assert numbers == list(range(len(numbers)))
    assert first.until("end").reason == "replaced"
    numbers = [message.n for message in first.got if getattr(message, "n", None) is not None]
    assert numbers == list(range(len(numbers))), "nothing a second time"


def test_one_more_session_than_there_are_places_is_told_and_the_others_go_on(client, server):
    wait_for_room(server)
    held = [client(open={}) for _ in range(4)]
    for one in held:
        one.until("opened")
    more = client(open={})
    assert more.next().code == "full" and more.closed() == 4429
    for one in held:
        speak(one, steps=1)
        finish(one)
    client(open={}).until("opened")


def test_garbage_on_one_connection_leaves_another_undisturbed(client):
    good, bad = client(open={}), client(open={})
    for connection in (good, bad):
        connection.until("opened")
    for number in range(6):
        good.frame(number)
        bad.socket.send(b"SWF1" + bytes(range(100)))
        bad.socket.send("\x00" * 50)
    bad.socket.socket.shutdown(SHUT_RDWR)
    finish(good)
    assert good.of("error") == [] and [watched.step for watched in good.of("watched")] == [0, 1, 2]


def test_a_reader_that_does_not_read_is_not_disturbing_others(client):
    """It gets everything later, in order; meanwhile another session runs to its end."""
    lazy = client(open={"record": False})
    for number in range(8):
        lazy.frame(number)
    other = client(open={})
    speak(other, steps=2)
    finish(other)
    time.sleep(0.2)
    finish(lazy)
    numbers = [message.n for message in lazy.got if getattr(message, "n", None) is not None]
    assert numbers == list(range(len(numbers)))

"""OpenAI's HTTP form of `swwatch serve`, through the `openai` package, and as benchmarks' own clients send it."""

import base64
import contextlib
import json
import socket
import time
import urllib.error
import urllib.request
from collections import Counter

import pytest

from swwatch.data.prompt import prompt_ids
from swwatch.engine import door
from swwatch.rules.spans import ids_of
from swwatch.rules.systems import SYSTEMS
from swwatch.rules.variants import VARIANTS
from swwatch.watch.local import watch
from tests.helpers.live_servers import http_server
from tests.helpers.mutation import mutated
from tests.helpers.server_process import picture
from tests.helpers.thread_server import ThreadServer

openai = pytest.importorskip("openai", reason="pip install -e '.[test]' brings the openai package")
ALL = [*VARIANTS, *SYSTEMS]
MOST = 24  # tokens of an answer


@pytest.fixture(scope="module")
def server(tiny_checkpoint, clip, tmp_path_factory):
    """All variants, two sessions at a time; a client that does not read holds its session back soon."""
    files = tmp_path_factory.mktemp("videos")
    (files / "a clip.mp4").write_bytes(clip.read_bytes())
    (files / "out.mp4").symlink_to(clip)
    limits = {"max_sessions": 2, "max_unread": 16, "max_request_bytes": 3_000_000, "max_frame_bytes": 100_000}
    limits |= {"max_tokens": 3000, "max_question_chars": 200, "max_upload_bytes": 1_000_000}
    made = ThreadServer(tiny_checkpoint, ALL, files=files, **limits)
    yield made
    made.close()


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def video(clip) -> dict:
    """The clip inside a request."""
    return {"type": "video_url", "video_url": {"url": data_url(clip.read_bytes(), "video/mp4")}}


def data_url(data: bytes, kind: str = "image/jpeg") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def frame(number: int = 0, **more) -> dict:
    return {"type": "image_url", "image_url": {"url": data_url(picture(number)), "detail": "low"}, **more}


def text(words: str) -> dict:
    return {"type": "text", "text": words}


def user(*parts: dict) -> list[dict]:
    return [{"role": "user", "content": list(parts)}]


def ask(client, *parts: dict, model: str = "group", **how):
    return client.chat.completions.create(model=model, messages=user(*parts), **{"max_tokens": MOST} | how)


def said(answer) -> str:
    return answer.choices[0].message.content


def wait_until_free(server) -> None:
    deadline = time.monotonic() + 30
    while server.sessions and time.monotonic() < deadline:
        time.sleep(0.02)
    assert server.sessions == 0, "its place was not freed"


def post(server, body: bytes, path: str = "/v1/chat/completions") -> tuple[int, dict]:
    request = urllib.request.Request(server.url + path, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


# --- what is said ------------------------------------------------------------------------------------------------


def test_models_are_the_variants(client):
    assert [model.id for model in client.models.list()] == ALL
    model = client.models.retrieve("group")
    assert (model.object, model.owned_by, model.schedule) == ("model", "swwatch", "wait-k:3")
    with pytest.raises(openai.NotFoundError, match="choose one of origin, "):
        client.models.retrieve("gpt-4o")


# max_tokens is of what is said: a note of tww, whose random weights know no end, would have 512 there and 24 here
@pytest.mark.parametrize("name", [name for name in ALL if name != "tww"])
def test_every_variant_says_what_it_says_elsewhere_and_at_which_second(server, client, video, clip, name):
    loaded = server.server.sessions.stages.named(name).loaded
    limit = {} if name in ("streamingvlm", "livecc") else {"max_new_tokens": MOST}
    events = list(watch(loaded, clip, realtime=False, question="What moves?", **limit))
    turns, tokens = [""], [event for event in events if event.type == "token"]
    for event in events:
        turns[-1] += event.text if event.type == "token" else ""
        turns += [""] if event.type == "turn" else []
    want = turns[0]
    for turn in filter(None, turns[1:]):
        want += turn if not want or turn[0].isspace() else f" {turn}"

    how = {"model": name, "max_tokens": MOST if limit else None}
    whole = ask(client, video, text("What moves?"), **how)
    assert said(whole) == want and whole.usage.completion_tokens == len(tokens)
    chunks = list(ask(client, video, text("What moves?"), stream=True, **how))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == want

    pieces = [chunk.swwatch for chunk in chunks if chunk.choices[0].delta.content]
    known = {(token.step, token.newest_visible_step + 1.0) for token in tokens}
    assert {(piece["step"], piece["seen_s"]) for piece in pieces} <= known
    seen = [piece["seen_s"] for piece in pieces]
    assert seen == sorted(seen) and seen[-1] == 2.0, "all of the clip, at last"
    assert [one["seen_s"] for one in whole.swwatch["said"]] == sorted(set(seen))
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[0].swwatch["variant"] == name
    wait_until_free(server)  # a thought that is under way is brought to its end


def test_a_schedule_of_ones_own_is_kept(client, video):
    whole = ask(client, video, extra_body={"schedule": "wait-k:1"})
    assert whole.swwatch["schedule"] == "wait-k:1" and [one["seen_s"] for one in whole.swwatch["said"]] == [1.0, 2.0]
    first, rest = (one["text"] for one in whole.swwatch["said"])
    assert said(whole) == first + rest and len(first) < len(rest), "one token after the first second"


def test_usage_counts_what_was_seen_asked_and_said(server, client, video):
    encode = server.server.sessions.stages.named("group").loaded.tokenizer.encode
    whole = client.chat.completions.create(
        model="group",
        max_completion_tokens=5,
        messages=[{"role": "system", "content": "Be brief."}, *user(video, text("What moves?"))],
    )
    used = whole.usage
    assert (used.completion_tokens, whole.choices[0].finish_reason) == (5, "length")
    assert used.prompt_tokens_details.text_tokens == len(encode("Be brief.")) + len(encode("What moves?"))
    assert used.prompt_tokens_details.video_tokens == 2 * 4, "two steps of 56x56 pictures"
    assert used.prompt_tokens == sum((used.prompt_tokens_details.text_tokens, 8))
    assert used.total_tokens == used.prompt_tokens + 5
    chunks = list(ask(client, video, max_tokens=5, stream=True, stream_options={"include_usage": True}))
    assert [bool(chunk.usage) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 5
    assert [chunk.choices[0].finish_reason for chunk in chunks[-3:-1]] == [None, "length"]


def test_tokens_are_drawn_only_above_a_temperature_of_0(client, video):
    def drawn(**how) -> str:
        return said(ask(client, video, **how))

    likeliest = drawn()
    assert drawn(temperature=0) == drawn(temperature=0.0, top_p=0.5, seed=3) == likeliest
    some = drawn(temperature=1.0, seed=1)
    assert some == drawn(temperature=1, seed=1) != likeliest and some != drawn(temperature=1.0, seed=2)
    assert drawn(temperature=1.0, seed=1, extra_body={"top_k": 1}) == likeliest
    assert drawn(extra_body={"repetition_penalty": 5.0}) != likeliest


def test_a_stop_ends_the_answer_before_it_and_is_never_told(client, video):
    all_said = said(ask(client, video))
    stop = all_said[10:13]
    for how in ({"stop": stop}, {"stop": ["never said", stop]}):
        whole = ask(client, video, **how)
        assert (said(whole), whole.choices[0].finish_reason) == (all_said[: all_said.index(stop)], "stop")
    chunks = list(ask(client, video, stop=stop, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == said(whole)
    assert said(ask(client, video, stop=all_said + "x")) == all_said, "what was held back is told in the end"


def test_turns_stay_turns_and_the_systems_words_stand_before_them(client, video, monkeypatch):
    asked = []

    def note(tokenizer, *how):
        ids = prompt_ids(tokenizer, *how)
        asked.append(tokenizer.decode(ids))
        return ids

    monkeypatch.setattr(door, "prompt_ids", note)
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [video, text("What moves?")]},
        {"role": "assistant", "content": "A square."},
        {"role": "user", "content": "Which colour?"},
    ]
    whole = client.chat.completions.create(model="group", max_tokens=3, messages=turns)
    assert whole.swwatch["question"] == "Which colour?"
    one = client.chat.completions.create(model="group", max_tokens=3, messages=user(video, text("What moves?")))
    assert one.swwatch["question"] == "What moves?"
    assert whole.usage.prompt_tokens_details.text_tokens > one.usage.prompt_tokens_details.text_tokens
    turns_asked = "What moves?<|im_end|>\n<|im_start|>assistant\nA square.<|im_end|>\n<|im_start|>user\nWhich colour?"
    assert asked[0].endswith(f"system\nBe brief.<|im_end|>\n<|im_start|>user\n{turns_asked}<|vision_start|>")
    with pytest.raises(openai.BadRequestError, match="the last turn is the assistant's"):
        client.chat.completions.create(model="group", messages=turns[:3])


@pytest.mark.parametrize("name", SYSTEMS)
def test_turns_stay_turns_before_a_chat_systems_video(server, name):
    loaded = server.server.sessions.stages.named(name).loaded
    before = [("user", "What moves?"), ("assistant", "A square.")]
    session = door.open_stream(loaded, question="Which colour?", system="Be brief.", before=before)
    plain = door.open_stream(loaded, question="Which colour?", system="Be brief.")
    told = loaded.tokenizer.decode(ids_of(session.context))
    turns = "user\nWhat moves?<|im_end|>\n<|im_start|>assistant\nA square.<|im_end|>\n"
    assert told.startswith(f"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>{turns}")
    assert told.replace(f"<|im_start|>{turns}", "") == loaded.tokenizer.decode(ids_of(plain.context))
    assert session.query == "Which colour?" and session.keep.beginning(session.context) == session.context


# --- where the video is ------------------------------------------------------------------------------------------


def test_one_video_says_the_same_wherever_it_is(server, client, video, clip):
    want = said(ask(client, video))
    uploaded = client.files.create(file=clip, purpose="user_data")
    assert (uploaded.object, uploaded.bytes) == ("file", clip.stat().st_size)
    assert said(ask(client, {"type": "file", "file": {"file_id": uploaded.id}})) == want
    assert client.files.delete(uploaded.id).deleted
    with pytest.raises(openai.NotFoundError):
        ask(client, {"type": "file", "file": {"file_id": uploaded.id}})
    inside = {"file_data": data_url(clip.read_bytes(), "video/mp4"), "filename": "x.mp4"}
    assert said(ask(client, {"type": "file", "file": inside})) == want
    root = server.server.sessions.folder.root
    for url in (f"file://{root}/a%20clip.mp4", f"file://localhost{root}/a clip.mp4", f"{root}/a clip.mp4"):
        assert said(ask(client, linked_video(url))) == want
    assert server.server.sessions.uploads._stored == {}, "what came inside a request goes with its session"


@pytest.mark.parametrize("path", ["out.mp4", "../clip.mp4", "nothing.mp4", "%00.mp4"])
def test_file_addresses_lead_to_the_allowed_folder_alone(server, client, path):
    root = server.server.sessions.folder.root
    for url in (f"file://{root}/{path}", f"{root}/{path}", "file:///etc/passwd", "/etc/passwd", f"/{root}/a clip.mp4"):
        with pytest.raises(openai.NotFoundError, match="no such file here"):
            ask(client, linked_video(url))


def test_addresses_are_fetched_only_where_the_server_may(client):
    with pytest.raises(openai.BadRequestError, match="--allow-urls"):
        ask(client, {"type": "video_url", "video_url": {"url": "https://example.org/x.mp4"}})
    with pytest.raises(openai.BadRequestError, match="a picture must be a data URL"):
        ask(client, {"type": "image_url", "image_url": {"url": "https://example.org/x.jpg"}})


def test_pictures_are_a_video_of_so_many_a_second(client):
    def seen(*parts: dict, **how) -> list[float]:
        return [one["seen_s"] for one in ask(client, *parts, **how).swwatch["said"]]

    six = [frame(number) for number in range(6)]
    assert seen(*six) == [1.0, 2.0, 3.0], "at the model's rate"
    assert seen(*six, extra_body={"fps": 1}) == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert seen(frame(0, timestamp_s=7.0), frame(1, timestamp_s=8.5)) == [1.0, 2.0, 3.0], "the last lasts as the first"
    assert seen(text("<3.0 seconds>"), frame(0), text("<4.5 seconds>"), frame(1)) == [1.0, 2.0, 3.0]
    row = ",".join(base64.b64encode(picture(number)).decode() for number in range(6))
    whole = ask(client, {"type": "video_url", "video_url": {"url": f"data:video/jpeg;base64,{row}"}})
    assert said(whole) == said(ask(client, *six))


# --- as others send it -------------------------------------------------------------------------------------------


def test_the_requests_of_lmms_eval_are_answered(client):
    """Its `openai` and `async_openai` models: pictures as PNG, then the task's words; for some a free text form."""
    png = {"type": "image_url", "image_url": {"url": data_url(picture(0, form="PNG"), "image/png")}}
    turn = [{"role": "user", "content": [png, png, text("What moves?\nA. a dog\nB. a cat")]}]
    answer = client.chat.completions.create(messages=turn, model="group", max_tokens=16, temperature=0)
    assert answer.choices[0].message.content and answer.usage.prompt_tokens and answer.usage.completion_tokens == 16
    form = {"response_format": {"type": "text"}, "max_completion_tokens": 5}
    assert client.chat.completions.create(messages=turn, model="group", **form).choices[0].message.content


def test_the_requests_of_vlmevalkit_are_answered(server):
    """Its `OpenAIWrapper` posts the JSON itself, with n and without the package; so does its streaming client."""
    parts = [text("Frame 1"), frame(0), frame(1), text("What moves?")]
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]
    body = {"model": "group", "messages": turns, "n": 1, "temperature": 0, "max_tokens": 16}
    status, answer = post(server, json.dumps(body).encode())
    assert status == 200 and answer["choices"][0]["message"]["content"].strip()
    request = urllib.request.Request(f"{server.url}/v1/chat/completions", json.dumps(body | {"stream": True}).encode())
    with urllib.request.urlopen(request, timeout=60) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line.decode().strip() for line in response if line.strip()]
    assert all(line.startswith("data:") for line in lines) and lines[-1] == "data: [DONE]"
    deltas = [json.loads(line[5:])["choices"][0]["delta"] for line in lines[:-1]]
    assert "".join(delta.get("content") or "" for delta in deltas) == answer["choices"][0]["message"]["content"]


# --- mistakes, and worse -----------------------------------------------------------------------------------------


def shown(kind: str, data: bytes) -> dict:
    return {"messages": user({"type": "image_url", "image_url": {"url": data_url(data, kind)}})}


def linked_video(url: str) -> dict:
    return {"type": "video_url", "video_url": {"url": url}}


def linked(url: str) -> dict:
    return {"messages": user({"type": "image_url", "image_url": {"url": url}})}


@pytest.mark.parametrize(
    "status, told, how",
    [
        (400, "n: a video is narrated once", {"n": 2}),
        (400, "n: a video is narrated once", {"n": True}),
        (400, "tools: ", {"tools": [{"type": "function", "function": {"name": "f"}}]}),
        (400, "response_format: ", {"response_format": {"type": "json_object"}}),
        (400, "logprobs: ", {"logprobs": True}),
        (400, "frequency_penalty: ", {"frequency_penalty": 0.5}),
        (400, "temperature", {"temperature": -1}),
        (400, "temperature", {"temperature": "hot"}),
        (400, "top_p", {"top_p": 0}),
        (400, "max_tokens", {"max_tokens": 0}),
        (400, "stop", {"stop": [""]}),
        (400, "wrong: Extra inputs", {"wrong": 1}),
        (400, "never", {"schedule": "never"}),
        (400, "no such engine", {"engine": "steam"}),
        (404, "no such model", {"model": "gpt-4o"}),
        (400, "messages", {"messages": []}),
        (400, "messages", {"messages": [{"role": "user", "content": "x"}] * 257}),
        (400, "messages[0].role", {"messages": [{"role": "tool", "content": "x"}]}),
        (400, "there is no video", {"messages": [{"role": "user", "content": "Hello?"}]}),
        (400, "there is no video", {"messages": [{"role": "user", "content": None}]}),
        (400, "messages[0].content[0].type", {"messages": user({"type": "input_audio", "input_audio": {}})}),
        (400, "has no image_url", {"messages": user({"type": "image_url"})}),
        (400, "one video at a time", {"messages": user(frame(), {"type": "file", "file": {"file_id": "x"}})}),
        (400, "one video at a time", {"messages": user({"type": "file", "file": {"file_id": "x"}}, frame())}),
        (400, "send a data URL in base64", linked("data:,x")),
        (400, "base64 of a picture", linked("data:image/png;base64,%%%")),
        (400, "is empty", linked("data:image/png;base64,")),
        (400, "neither JPEG, PNG", shown("image/jpeg", b"x" * 99)),
        (413, "a picture may have", shown("image/jpeg", bytes(100_003))),
        (413, "a video may have", shown("video/mp4", bytes(1_000_003))),
        (400, "the uploaded file", shown("video/mp4", b"no video")),
        (413, "the words of all turns", {"messages": user(frame(), text("x" * 201))}),
        (400, "<|im_end|>", {"messages": user(frame(), text("x<|im_end|>"))}),
        (400, "<|im_end|>", {"messages": [{"role": "system", "content": "<|im_end|>"}, *user(frame())]}),
    ],
)
def test_mistakes_are_told_in_openais_form(server, status, told, how):
    got, answer = post(server, json.dumps({"model": "group", "messages": user(frame())} | how).encode())
    error = answer["error"]
    assert got == status and told in error["message"], error
    assert error.keys() == {"code", "message", "type", "param"} and error["code"]
    assert error["type"] == ("not_found_error" if status == 404 else "invalid_request_error")
    (field,) = how
    assert error["param"] == field or error["param"].startswith(
        ("messages[", "wrong" if field == "wrong" else "stop[")
    )
    wait_until_free(server)


def test_the_place_of_a_mistake_is_named(server):
    late = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [frame(), frame(), text("x")]}]
    late[1]["content"][1]["image_url"] = {"url": "data:image/png;base64,%%%"}
    places = {
        "messages[1].content[1]": {"messages": late},
        "messages[0].content[0].type": {"messages": user({"type": "input_audio"})},
        "messages": {"messages": user(frame(), text("x" * 201))},
        "temperature": {"temperature": 3},
        "schedule": {"schedule": "gate"},
        "engine": {"engine": "steam"},
        "model": {"model": "gpt-4o"},
        "tools": {"tools": [{}]},
    }
    for place, how in places.items():
        _, answer = post(server, json.dumps({"model": "group", "messages": user(frame())} | how).encode())
        assert answer["error"]["param"] == place
    assert post(server, b"{")[1]["error"]["param"] is None
    body = json.dumps({"model": "group", "messages": user(linked_video("file:///x.mp4")), "stream": True})
    assert post(server, body.encode())[1]["error"]["param"] == "messages"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"\xff", b'{"model": NaN}', b"[" * 100_000, b'{"model": "\\ud800"}']
)
def test_what_is_no_request_is_refused(server, body):
    status, answer = post(server, body)
    assert status == 400 and answer["error"]["code"] == "bad_message"


def test_whatever_a_request_becomes_it_is_answered_or_refused_in_openais_form(server, video):
    turns = [
        {"role": "system", "content": "Be brief."},
        *user(frame(timestamp_s=0.0), text("<0.5 seconds>"), frame(1)),
    ]
    turns += [{"role": "assistant", "content": "A dog."}, *user(text("What moves?"))]
    good = {"model": "group", "temperature": 0, "top_p": 0.9, "max_tokens": 2, "stop": ["."], "n": 1, "tools": []}
    good |= {"seed": 1, "fps": 2.0, "schedule": "wait-k:1", "engine": "serial"}
    shown = [turns, turns, user(video, text("x")), user({"type": "file", "file": {"file_id": "x"}})]
    seen = Counter()
    for seed in range(80):
        body = json.dumps(mutated(good | {"messages": shown[seed % 4]}, seed)).encode()
        status, answer = post(server, body[: -seed - 1] if seed % 10 == 9 else body)
        assert status in (200, 400, 404, 413), (seed, answer)
        assert answer["object"] == "chat.completion" if status == 200 else answer["error"]["message"], (seed, answer)
        seen[status] += 1
    assert seen[200] > 10 and seen[400] > 10 and seen[404], seen
    wait_until_free(server)


def test_a_request_over_its_limit_is_not_read_to_its_end(server):
    with socket.create_connection(server.url.removeprefix("http://").split(":"), timeout=30) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 900000000\r\n\r\n"
        )
        with contextlib.suppress(ConnectionError):
            for _ in range(200):
                connection.sendall(bytes(100_000))
        assert b" 413 " in connection.recv(4096)
    assert server.server.sessions.uploads._stored == {} and not server.sessions


def test_more_sessions_than_there_are_is_a_rate_limit_and_a_client_that_leaves_frees_its_place(server, client):
    many = [frame(number % 3) for number in range(200)]
    held = [ask(client, *many, max_tokens=2500, stream=True) for _ in range(2)]
    for stream in held:
        next(iter(stream))
    with pytest.raises(openai.RateLimitError, match="all 2 sessions are taken"):
        ask(client, frame())
    for stream in held:
        stream.close()
    wait_until_free(server)
    with pytest.raises(openai.APITimeoutError):
        ask(client.with_options(timeout=0.3), *many, max_tokens=2500)
    wait_until_free(server)


def test_who_does_not_read_holds_nothing_but_his_place(server):
    body = {"model": "group", "messages": user(*(frame(number % 3) for number in range(300))), "stream": True}
    data = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(data)}\r\n\r\n"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(30)
        connection.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
        connection.sendall(head.encode() + data)
        (session,) = wait_for_sessions(server)
        counts = [-1, 0]
        while counts[-1] != counts[-2] or not session.live.stats().held:
            time.sleep(0.3)
            counts.append(session.live.stats().tokens)
        assert not session.over and counts[-1] < 3000 and len(session.outbox) <= 16 + 4
    wait_until_free(server)


def wait_for_sessions(server) -> list:
    deadline = time.monotonic() + 30
    while not server.sessions and time.monotonic() < deadline:
        time.sleep(0.02)
    return [one for one in server.server.sessions._sessions.values() if not one.over]


def test_the_servers_token_is_the_key_and_it_fetches_addresses_where_it_may(tiny_checkpoint, client, video, clip):
    server = ThreadServer(tiny_checkpoint, ["group"], token="a-good-token", allow_private_urls=True)
    try:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="a-bad-token", max_retries=0) as stranger:
            with pytest.raises(openai.AuthenticationError, match="wants its token"):
                ask(stranger, frame())
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="a-good-token") as friend:
            assert said(ask(friend, frame()))
            with http_server(clip.read_bytes(), "whole") as elsewhere:
                there = ask(friend, {"type": "video_url", "video_url": {"url": elsewhere.url}})
            assert said(there) == said(ask(client, video))
    finally:
        server.close()

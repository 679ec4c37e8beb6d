"""A recorded session: every numbered message, and cues that players accept."""

import asyncio
import json
import re

import pytest

from swwatch.client.protocol import Asked, Decided, End, Opened, ProtocolError, Token, Turn, parse_server
from swwatch.serve.record import Recordings
from swwatch.serve.settings import Limits

OPENED = Opened(
    session="secret",
    variant="group",
    engine="serial",
    why="",
    schedule="wait-k:3",
    question="What?",
    rate=2.0,
    policy="merge",
    limits=Limits().as_message(),
    grace_s=1,
    left_s=1,
)


def token(n: int, text: str, step: int, t_emit_s: float) -> Token:
    times = {"t_frame_s": step + 0.5, "t_emit_s": t_emit_s, "lag_s": t_emit_s - step - 0.5}
    return Token(n=n, text=text, step=step, newest_visible_step=step, index=n, **times)


@pytest.fixture
def recorded(tmp_path):
    recordings = Recordings(tmp_path, keep_s=1)
    name = recordings.new_name()
    recorder = recordings.begin(name, OPENED)
    events = [token(0, "a <b>", 0, 0.6), token(1, " &\n\n--> c", 0, 0.7), Asked(n=2, step=1, question="Who?", t_s=1.0)]
    events += [token(3, "", 1, 3599.9996), token(4, "last", 1, 3600.5), End(n=5, reason="finished", tokens=4)]
    for event in events:
        recorder.event(event)
    recorder.close()
    return recordings, name, events


def test_every_numbered_message_is_written_and_the_secret_is_not(recorded):
    recordings, name, events = recorded
    text = recordings.path(name, "jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert "secret" not in text and lines[0]["type"] == "opened" and lines[0]["variant"] == "group"
    assert all(line.pop("at_s") >= 0 for line in lines)
    assert [parse_server(json.dumps(line)) for line in lines[1:]] == events


def test_cues_have_the_words_of_a_step_from_its_first_to_the_next_ones(recorded):
    recordings, name, _ = recorded
    cues = recordings.path(name, "vtt").read_text().split("\n\n")
    assert cues[0] == "WEBVTT"
    assert cues[1] == "00:00:00.600 --> 01:00:00.000\na &lt;b&gt; &amp; --&gt; c"
    assert cues[2].strip() == "01:00:00.000 --> 01:00:02.500\nlast"
    assert all(re.match(r"\d\d:\d\d:\d\d\.\d{3} --> \d\d:\d\d:\d\d\.\d{3}\n\S", cue) for cue in cues[1:])


def test_cues_of_chat_turns_have_their_seconds_and_silence_has_none(tmp_path):
    recordings = Recordings(tmp_path, keep_s=1)
    recorder = recordings.begin("name", OPENED)
    seconds = [("A red & a blue", 0, 3), ("", 3, 4), ("They meet", 4, 5), ("An answer", 5, 5)]
    for n, (text, start_s, end_s) in enumerate(seconds):
        recorder.event(token(2 * n, f" {text} ...", end_s - 1, end_s + 0.1))
        recorder.event(Turn(n=2 * n + 1, turn=n, start_s=start_s, end_s=end_s, text=text, t_s=end_s + 0.2))
    recorder.event(token(8, "cut", 5, 6.5))
    recorder.close()
    cues = recordings.path("name", "vtt").read_text().split("\n\n")
    assert cues[1:4] == [
        "00:00:00.000 --> 00:00:03.000\nA red &amp; a blue",
        "00:00:04.000 --> 00:00:05.000\nThey meet",
        "00:00:05.000 --> 00:00:07.000\nAn answer",
    ]
    assert [cue.strip() for cue in cues[4:]] == ["00:00:06.500 --> 00:00:08.500\ncut"], "a turn that was stopped"


def test_words_are_taken_off_where_silence_is_decided(tmp_path):
    recorder = Recordings(tmp_path, keep_s=1).begin("name", OPENED)
    decided = [Decided(n=n, step=n, tokens=n % 2, t_s=n + 0.6, why={"change": None}) for n in range(1, 4)]
    for event in (token(4, "A red", 0, 0.7), token(5, " blue", 0, 0.8), *decided, token(6, "They meet", 3, 3.7)):
        recorder.event(event)
    recorder.close()
    cues = (tmp_path / "name.vtt").read_text().split("\n\n")
    assert cues[1].startswith("00:00:00.700 --> 00:00:02.600\nA red blue") and "00:00:03.700" in cues[2]


@pytest.mark.parametrize("name, kind", [("../../etc/x", "jsonl"), ("x", "jsonl"), (None, "txt"), (None, "../vtt")])
def test_only_what_was_recorded_can_be_fetched(recorded, name, kind):
    recordings, made, _ = recorded
    with pytest.raises(ProtocolError):
        recordings.path(name or made, kind)


def test_recordings_go_after_a_time_and_with_the_server_unless_the_folder_is_the_users(tmp_path):
    now = [0.0]
    for folder in (None, tmp_path / "mine"):
        recordings = Recordings(folder, keep_s=5, now=lambda: now[0])
        name = recordings.new_name()
        recordings.begin(name, OPENED).close()
        now[0] += 6
        recordings.sweep()
        assert (recordings.folder / f"{name}.vtt").exists() == (folder is not None)
        recordings.close()
        assert recordings.folder.exists() == (folder is not None)


def test_a_folder_that_takes_nothing_is_told(tmp_path):
    recordings = Recordings(tmp_path, keep_s=1)
    (tmp_path / "name.vtt").symlink_to("/dev/full")
    with pytest.raises(ProtocolError, match="the recording cannot be written") as caught:
        recordings.begin("name", OPENED)
    assert caught.value.code == "server_error"


def test_a_disk_that_fills_up_amid_a_recording_keeps_whole_lines_and_offers_nothing(small_disk):
    folder = small_disk(64 << 10)
    recordings = Recordings(folder, keep_s=1)
    recorder = recordings.begin("name", OPENED)
    with pytest.raises(OSError, match="No space left"):
        for n in range(1000):
            recorder.event(token(n, "word " * 50, n, n + 0.6))
    recorder.give_up()
    lines = (folder / "name.jsonl").read_text().split("\n")[:-1]
    assert [json.loads(line)["n"] for line in lines[1:]] == list(range(len(lines) - 1)) and len(lines) > 9
    with pytest.raises(ProtocolError, match="no such recording"):
        recordings.path("name", "jsonl")
    with pytest.raises(ProtocolError, match="cannot be written: No space left"):
        recordings.begin("other", OPENED)


def test_subtitles_are_followed_to_the_end_of_their_session(tmp_path, monkeypatch):
    monkeypatch.setattr("swwatch.serve.record.LOOK_S", 0.001)
    recordings = Recordings(tmp_path, keep_s=1)
    name = recordings.new_name()
    recorder = recordings.begin(name, OPENED)

    async def follow(kind: str) -> list[str]:
        got = []
        async for text in recordings.follow(name, kind):
            got.append(text)
            if len(got) <= 3:
                recorder.event(token(len(got), f" <{len(got)}>", len(got), len(got) + 0.6))
            elif not recorder.closed:
                recorder.event(End(n=9, reason="finished", tokens=3))
                recorder.close()
        return got

    got = asyncio.run(follow("vtt"))
    assert "".join(got) == recordings.subtitles(name, "vtt") == recordings.path(name, "vtt").read_text()
    assert got[0] == "WEBVTT\n" and [text.count("-->") for text in got[:3]] == [0, 0, 1]
    assert asyncio.run(follow("srt")) == [
        "1\n00:00:01,600 --> 00:00:02,600\n<1>\n\n2\n00:00:02,600 --> 00:00:03,600\n<2>\n\n"
        "3\n00:00:03,600 --> 00:00:05,600\n<3>\n\n"
    ]
    with pytest.raises(ProtocolError, match="no such recording"):
        asyncio.run(anext(recordings.follow("other", "vtt")))
    recordings.close()


def test_only_so_many_follow(tmp_path, monkeypatch):
    monkeypatch.setattr("swwatch.serve.record.MAX_FOLLOWED", 1)
    recordings = Recordings(tmp_path, keep_s=1)
    name = recordings.new_name()
    recordings.begin(name, OPENED)

    async def two() -> None:
        first = recordings.follow(name, "vtt")
        await anext(first)
        with pytest.raises(ProtocolError, match="too many follow"):
            await anext(recordings.follow(name, "vtt"))
        await first.aclose()
        assert await anext(recordings.follow(name, "vtt")) == "WEBVTT\n", "its place is free again"

    asyncio.run(two())
    recordings.close()

"""Turns as text: of a file, pushed frame by frame, and from the command line."""

import json

import numpy as np
import pytest

from swwatch.config import read_settings
from swwatch.data.turns.prompt import Turns
from swwatch.data.video import iter_steps
from swwatch.engine.requests import drive
from swwatch.errors import UserError
from swwatch.narrate import turns_command as command
from swwatch.narrate.turns import TurnStream, live_cc
from swwatch.narrate.turns_stream import cue
from swwatch.narrate.words import Turn, narration
from swwatch.policies.keep import SinkWindow
from swwatch.rules.spans import Part
from swwatch.rules.systems import SYSTEMS
from swwatch.toy.clips import Recipe, write_dataset
from tests.helpers.turn_streams import GREEDY


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    write_dataset(folder, Recipe(1, 1, 0), workers=1)
    return sorted(folder.rglob("*.mp4"))[0]


def narrated(loaded, clip) -> list[Turn]:
    run = narration(loaded, iter_steps(clip), choose=GREEDY)
    return [event for event in drive(loaded.model, run) if isinstance(event, Turn)]


@pytest.mark.parametrize("system", ["streamingvlm", "livecc"])
def test_frames_pushed_one_by_one_give_the_turns_of_the_file(load_tiny, clip, system):
    import av

    loaded = load_tiny(system)
    whole, stream, turns = narrated(loaded, clip), TurnStream(loaded, choose=GREEDY), []
    with av.open(str(clip)) as container:
        for frame in container.decode(video=0):
            stream.push(frame.time, frame.to_ndarray(format="rgb24"))
            while (turn := stream.step()) is not None:
                turns.append(turn)
    stream.end()
    while (turn := stream.step()) is not None:
        turns.append(turn)
    assert [(turn.start_s, turn.end_s) for turn in turns] == [(turn.start_s, turn.end_s) for turn in whole]
    assert turns == whole
    assert whole[0].end_s == (1.0 if system == "streamingvlm" else 3.0)
    assert not any("..." in turn.text or "<|" in turn.text for turn in turns)


def test_liveccs_loop_answers_and_goes_on_with_its_stream(load_tiny, clip):
    loaded, steps = load_tiny("livecc"), list(iter_steps(clip))
    words = list(live_cc(loaded, steps, choose=GREEDY))
    assert [Turn(*span, text) for span, text, _ in words] == narrated(loaded, clip)
    stream = words[-1][2]
    number, length = stream.session.num_rounds, stream.session.cache.get_seq_length()
    stream.ask("And now")  # of the next turn, which the answer is not
    assert isinstance(stream.answer("What was red", max_new_tokens=4), str)
    assert stream.session.num_rounds == number + 1 and stream.session.cache.get_seq_length() > length
    more = [span for span, _, _ in live_cc(loaded, steps[:2], stream)]
    assert len(more) == 2
    asked = [(s.round, loaded.tokenizer.decode(s.ids)) for s in stream.session.context if s.part is Part.QUERY]
    query = stream.session.system.query
    assert asked == [(0, query), (number, "What was red"), (number + 1, "And now")], "each once, in its own turn"
    assert stream.session.num_rounds == number + 3


def test_nothing_is_said_until_liveccs_three_seconds_are_there_and_a_backlog_makes_turns_of_one(load_tiny):
    frames = np.random.default_rng(0).integers(0, 255, (21, 56, 56, 3), dtype=np.uint8)
    stream, turns = TurnStream(load_tiny("livecc"), choose=GREEDY), []
    for i in range(6):
        assert stream.step() is None
        stream.push(i / 2, frames[i])  # at the rate of the grid: decided as it comes
    turns.append(stream.step())
    assert stream.step() is None
    for i in range(6, 21):  # an odd number: the last frame has no second half
        stream.push(i / 2, frames[i])
    while (turn := stream.step()) is not None:
        turns.append(turn)
    stream.end()
    assert stream.step() is None
    spans = [span.grid for span in stream.session.context if span.part is Part.VIDEO]
    assert [(turn.start_s, turn.end_s) for turn in turns] == [(0, 3), *((i, i + 1) for i in range(3, 10))]
    assert [grid[0] for grid in spans] == [3, 1, 1, 1, 1, 1, 1, 1]


def test_a_live_stream_that_changes_its_size_within_the_first_turn_goes_on(load_tiny):
    stream, turns = TurnStream(load_tiny("livecc"), choose=GREEDY), []
    for i in range(10):
        stream.push(i / 2, np.zeros((56, 56 if i < 2 else 112, 3), dtype=np.uint8))
        while (turn := stream.step()) is not None:
            turns.append((turn.start_s, turn.end_s))
    assert turns == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]


def test_the_command_writes_text_subtitles_and_json(load_tiny, clip, tmp_path, capsys, tiny_checkpoint):
    jsonl, vtt = tmp_path / "turns.jsonl", tmp_path / "turns.vtt"
    flags = [
        "--model",
        str(tiny_checkpoint),
        "--video",
        str(clip),
        "--system",
        "streamingvlm",
        "--max-new-tokens",
        "3",
    ]
    assert command.main([*flags, "--greedy", "--vision-seconds", "2", "--jsonl", str(jsonl), "--vtt", str(vtt)]) == 0
    shown = capsys.readouterr().out
    rows = [json.loads(line) for line in jsonl.read_text().splitlines()]
    assert [row["start"] for row in rows] == list(range(len(rows))) and rows[0]["type"] == "segment"
    assert rows[0].keys() == {"type", "start", "end", "text", "took_s"} and rows[0]["took_s"] > 0
    assert shown.count(" s |") == len(rows)
    begin, *blocks = vtt.read_text().split("\n\n")
    notes, cues = blocks[::2], blocks[1::2]
    assert begin == "WEBVTT" and len(cues) == len(notes) == sum(bool(row["text"]) for row in rows)
    assert cues[0].startswith("00:00:0") and all(note.startswith("NOTE took ") for note in notes)


@pytest.mark.parametrize(("system", "ends"), [("streamingvlm", [4, 5, 6]), ("livecc", [6])])
def test_a_part_of_a_video_is_told_in_the_videos_seconds(clip, tmp_path, tiny_checkpoint, system, ends):
    jsonl, vtt = tmp_path / "turns.jsonl", tmp_path / "turns.vtt"
    flags = ["--model", str(tiny_checkpoint), "--video", str(clip), "--system", system, "--greedy"]
    flags += ["--start", "3", "--seconds", "3", "--query", "", "--max-new-tokens", "2", "--max-pixels", "3136"]
    assert command.main([*flags, "--jsonl", str(jsonl), "--vtt", str(vtt), "--silent-cues"]) == 0
    rows = [json.loads(line) for line in jsonl.read_text().splitlines()]
    assert [row["end"] for row in rows] == ends and rows[0]["start"] == 3
    assert vtt.read_text().count("-->") == len(rows)


def test_a_cue_of_an_answer_can_be_read():
    assert cue(Turn(60.0, 60.0, "a <b>")) == "\n00:01:00.000 --> 00:01:02.000\na &lt;b>"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["livecc", "--previous", "he ran"], "keeps no previous text"),
        (["livecc", "--positions", "mrope_contiguous"], "mrope_full, livecc_compat, flat_1d, flat_contiguous"),
        (["streamingvlm", "--positions", "livecc_compat"], "is none of streamingvlm's"),
        (["livecc", "--max-pixels", "5"], "at least 784"),
        (["livecc", "--seconds", "0"], "above 0"),
        (["livecc", "--silent-cues"], "give --vtt"),
    ],
)
def test_what_a_system_does_not_do_is_told_before_its_model_is_loaded(
    clip, tiny_checkpoint, monkeypatch, flags, message
):
    monkeypatch.setattr("swwatch.model.loading.load", None)
    with pytest.raises(UserError, match=message):
        command.main(["--model", str(tiny_checkpoint), "--video", str(clip), "--system", *flags])


def test_draws_depend_on_the_seed_alone(load_tiny, clip, tmp_path, tiny_checkpoint):
    said = []
    for seed in (1, 1, 2):
        out = tmp_path / f"{len(said)}.jsonl"
        flags = ["--model", str(tiny_checkpoint), "--video", str(clip), "--system", "livecc", "--seed", str(seed)]
        command.main([*flags, "--temperature", "1", "--jsonl", str(out)])
        said.append([json.loads(line)["text"] for line in out.read_text().splitlines()])
    assert said[0] == said[1] != said[2]


def test_the_door_opens_it_with_the_serial_engine_alone(load_tiny):
    from swwatch.engine.choose import ENGINES, choose, open_session
    from swwatch.engine.turns import TurnSession
    from tests.helpers.serial import SerialSession

    loaded = load_tiny("livecc")
    turns = Turns(loaded.tokenizer, SYSTEMS["livecc"])
    assert type(open_session("serial", loaded.model, turns)) is TurnSession
    assert choose("auto", "livecc", "cuda", 2)[0] == "serial"
    for engine in sorted(set(ENGINES) - {"serial"}):
        with pytest.raises(UserError, match="chat turns.* Take the engine 'serial'"):
            open_session(engine, loaded.model, turns)
    with pytest.raises(ValueError, match="chat turns"):
        SerialSession(loaded.model, [1, 2])


def test_one_number_sets_both_windows_and_one_alone_says_what_it_changes(clip, tiny_checkpoint, tmp_path):
    def settings(*flags) -> command.TurnsSettings:
        flags = ["--model", str(tiny_checkpoint), "--video", str(clip), "--system", "streamingvlm", *flags]
        return read_settings(command.TurnsSettings, flags, program="turns", about="")

    def lopsided(asked: command.TurnsSettings) -> str | None:
        return asked.lopsided(asked.keep_policy("streamingvlm"))

    both = settings("--seconds-in-view", "8")
    assert both.keep_policy("streamingvlm") == SinkWindow(8.0, 8.0, 512, 512) and lopsided(both) is None
    assert settings("--seconds-in-view", "8", "--eviction", "restart").keep_policy("streamingvlm").vision_s == 8
    video, text = settings("--vision-seconds", "8"), settings("--turns-seconds", "8")
    assert "video goes after 8 s, and its labels and answers stay turns for 16 s" in lopsided(video)
    assert "answers join the previous text after 8 s, and their video stays for 16 s" in lopsided(text)
    assert lopsided(settings("--vision-seconds", "8", "--turns-seconds", "4")) is None
    with pytest.raises(UserError, match="--vision-seconds has no use with --seconds-in-view"):
        settings("--vision-seconds", "8", "--seconds-in-view", "8").check_system("streamingvlm")


def test_mistakes_are_told(load_tiny, clip, tiny_checkpoint):
    with pytest.raises(UserError, match="does not stream in turns"):
        TurnStream(load_tiny("group"))
    flags = ["--model", str(tiny_checkpoint), "--video", str(clip), "--system", "livecc"]
    with pytest.raises(UserError, match="does not name a variant.* --system .*streamingvlm, livecc"):
        command.main(flags[:-2])
    with pytest.raises(UserError, match="seconds_per_turn must be above 0"):
        command.main([*flags, "--steps-per-turn", "0"])
    with pytest.raises(UserError, match="a turn of 1.5 s is 1.5 patches of two frames at 2 frames a second"):
        command.main([*flags, "--seconds-per-turn", "1.5"])
    with pytest.raises(UserError, match="keeps no previous text"):
        command.main([*flags, "--previous", "Before"])
    for more, words in (
        (["--flush-seconds", "-1"], "flush_s must be at least 0"),
        (["--vision-seconds", "9"], "--vision-seconds has no use with --eviction flush"),
        (["--eviction", "append", "--flush-seconds", "9"], "--flush-seconds has no use with --eviction append"),
        (["--seconds-in-view", "9"], "--seconds-in-view has no use with --eviction flush"),
        (["--eviction", "restart"], "--eviction restart would keep all video here: give --vision-seconds"),
        (["--greedy", "--top-k", "3"], "--top-k has no use with --greedy"),
        (["--threshold-step", "0.1"], "give both"),
    ):
        with pytest.raises(UserError, match=words):
            command.main([*flags, *more])
    with pytest.raises(UserError, match="vision_s must be at least 0"):
        command.main([*flags, "--eviction", "restart", "--vision-seconds", "-1"])

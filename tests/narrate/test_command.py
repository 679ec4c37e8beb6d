"""`swwatch stream`: live text and one JSON object per token, at the file's own pace where asked."""

import json
import time
from unittest import mock

import pytest

from swwatch import cli
from swwatch.data.video import iter_steps
from swwatch.engine.trace import RealTimeClock, SimulatedClock
from swwatch.narrate import command as stream
from swwatch.rules.systems import SYSTEMS
from swwatch.rules.variants import TURNS
from swwatch.toy.clips import Recipe, write_dataset


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    out = tmp_path_factory.mktemp("stream")
    write_dataset(out, Recipe(clips=1, test_clips=1))
    return next((out / "PE-Video/videos/test").glob("*.mp4"))


WATCHED = {"event", "step", "arrival_s", "t_s", "num_dropped", "grid", "kept"}


def run(tiny_checkpoint, clip, *flags) -> int:
    argv = ["--model", str(tiny_checkpoint), "--video", str(clip), "--variant", "group", "--device", "cpu", *flags]
    return cli.run(stream.main, argv)


def tokens_of(path) -> list[dict]:
    return [event for event in map(json.loads, path.read_text().splitlines()) if "token_id" in event]


def test_tokens_and_their_provenance_are_written_as_they_come(tiny_checkpoint, clip, tmp_path, capsys):
    out = tmp_path / "tokens.jsonl"
    assert run(tiny_checkpoint, clip, "--jsonl", str(out), "--max-new-tokens", "40") == 0
    events = [json.loads(line) for line in out.read_text().splitlines()]
    tokens = [event for event in events if "token_id" in event]
    num_steps = sum(1 for _ in iter_steps(clip))
    watched = [event for event in events if event.get("event") == "watched"]
    assert len(watched) + len(tokens) == len(events) and set(watched[0]) == WATCHED
    assert [event["step"] for event in watched] == list(range(num_steps))
    assert set(tokens[0]) == {"step", "token_id", "text", "newest_visible_step", "t_emit_s", "t_frame_s"}
    for step in range(num_steps - 1):
        assert sum(token["step"] == step for token in tokens) == 3
    assert all(token["t_frame_s"] == token["newest_visible_step"] + 0.5 <= token["t_emit_s"] for token in tokens)
    lines = capsys.readouterr().out.splitlines()
    assert "group, wait-k:3" in lines[0]
    assert lines[1].startswith("engine serial: on a CPU")
    assert [line.split()[1] for line in lines if line.startswith("seen")][:2] == ["0-1", "0-2"]


def test_thoughts_stand_apart_from_words_and_are_off_unless_asked_for(tiny_checkpoint, clip, tmp_path, capsys):
    out, think = tmp_path / "tokens.jsonl", ("--max-new-tokens", "12", "--think", "notes:2:limit=3")
    assert run(tiny_checkpoint, clip, "--jsonl", str(out), *think) == 0
    thoughts = [event for event in map(json.loads, out.read_text().splitlines()) if event.get("event") == "thought"]
    steps = sum(1 for _ in iter_steps(clip)) - 1
    assert {thought["step"] for thought in thoughts} == set(range(steps)) and thoughts[0]["begins"]
    facts = {"event", "step", "token_id", "text", "newest_visible_step", "t_emit_s", "t_frame_s", "begins"}
    assert set(thoughts[0]) == facts and all(t["newest_visible_step"] == t["step"] for t in thoughts)
    text = "".join(thought["text"] for thought in thoughts if thought["step"] == 0).strip()
    lines = capsys.readouterr().out.splitlines()
    assert any(line.strip().startswith("(thinks)") and text in line for line in lines)
    for wrong, advice in (("notes:2", "give it a window"), ("note", "is not understood")):
        assert run(tiny_checkpoint, clip, "--think", wrong, "--keep", "window:4") == 2
        assert advice in capsys.readouterr().err


def test_a_part_of_a_video_at_another_rate_and_size(tiny_checkpoint, clip, tmp_path, capsys):
    out, part = tmp_path / "tokens.jsonl", ("--fps", "4", "--start", "1", "--seconds", "2", "--max-pixels", "3136")
    part += ("--max-new-tokens", "12")
    assert run(tiny_checkpoint, clip, "--jsonl", str(out), *part) == 0
    watched = [event for event in map(json.loads, out.read_text().splitlines()) if event.get("event") == "watched"]
    assert [event["arrival_s"] for event in watched] == [0.25, 0.75, 1.25, 1.75]
    assert all(event["grid"][0] * event["grid"][1] <= 4 for event in watched)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("seen")][:3] == ["0-0.5", "0-1", "0-1.5"]
    assert run(tiny_checkpoint, clip, "--variant", "streamingvlm", "--jsonl", str(out), *part) == 0
    turns = [event for event in map(json.loads, out.read_text().splitlines()) if event.get("event") == "turn"]
    assert [(turn["start_s"], turn["end_s"]) for turn in turns] == [(1, 2), (2, 3)]  # seconds of the video


def test_another_schedule_is_the_disturbance_test(tiny_checkpoint, clip, tmp_path):
    out = tmp_path / "tokens.jsonl"
    assert run(tiny_checkpoint, clip, "--jsonl", str(out), "--schedule", "wait-k:1") == 0
    steps = [token["step"] for token in tokens_of(out)]
    assert [steps.count(step) for step in range(3)] == [1, 1, 1]


def test_a_schedule_that_decides_tells_its_silence_and_what_a_model_cannot_is_refused_before_it_is_loaded(
    tiny_checkpoint, clip, tmp_path, capsys
):
    out = tmp_path / "tokens.jsonl"
    assert run(tiny_checkpoint, clip, "--jsonl", str(out), "--schedule", "sved:2:alpha=100") == 0
    decided = [event for event in map(json.loads, out.read_text().splitlines()) if event.get("event") == "decided"]
    assert [event["num_tokens"] for event in decided] == [2, *[0] * (len(decided) - 1)] and len(decided) > 1
    assert set(decided[1]["why"]) == {"perplexity", "said_perplexity"}
    assert f"\nsilent for {len(decided) - 1} step" in capsys.readouterr().out
    with mock.patch("swwatch.model.loading.load", side_effect=AssertionError("too late")):
        assert run(tiny_checkpoint, clip, "--variant", "interleave", "--schedule", "sved") == 2
        assert "'interleave' cannot speak by sved" in capsys.readouterr().err
        assert run(tiny_checkpoint, clip, "--variant", "livecc", "--schedule", "pace") == 2
        assert "by no schedule" in capsys.readouterr().err
        assert run(tiny_checkpoint, clip, "--schedule", "head:5") == 2
        assert "never learned to speak by head" in capsys.readouterr().err
        assert run(tiny_checkpoint, clip, "--variant", "livecc", "--fps", "3") == 2
        assert "a turn of 1 s is 1.5 patches" in capsys.readouterr().err


@pytest.mark.parametrize(
    "video, words", [("missing.mp4", "missing.mp4"), ("empty.mp4", "empty.mp4"), ("text.mp4", "text.mp4")]
)
def test_an_unreadable_file_is_a_clear_error_and_exit_code_two(tiny_checkpoint, tmp_path, capsys, video, words):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("this is not a video")
    assert run(tiny_checkpoint, tmp_path / video) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error and "Traceback" not in error


def test_a_mistake_costs_neither_the_video_nor_an_earlier_runs_tokens(tiny_checkpoint, clip, tmp_path, capsys):
    earlier, before = tmp_path / "tokens.jsonl", clip.read_bytes()
    earlier.write_text("kept\n")
    assert run(tmp_path / "no-model", clip, "--jsonl", str(earlier)) == 2
    assert earlier.read_text() == "kept\n"
    assert run(tiny_checkpoint, clip, "--jsonl", str(clip)) == 2 and clip.read_bytes() == before
    assert run(tiny_checkpoint, clip, "--jsonl", str(tmp_path / "no/folder.jsonl")) == 2
    assert run(tiny_checkpoint, clip, "--device", "gpu") == 2
    assert "cpu, cuda" in capsys.readouterr().err


def test_lines_may_go_to_a_pipe_or_a_device_and_a_full_one_is_told(tiny_checkpoint, clip, capsys):
    assert run(tiny_checkpoint, clip, "--max-new-tokens", "2", "--jsonl", "/dev/null") == 0
    assert run(tiny_checkpoint, clip, "--max-new-tokens", "2", "--jsonl", "/dev/full") == 2
    assert "the disk is full" in capsys.readouterr().err


def test_a_real_time_clock_waits_for_frames_and_a_simulated_one_skips_the_wait():
    wall = [0.0]

    def sleep(seconds):
        wall[0] += seconds

    real = RealTimeClock(now=lambda: wall[0], sleep=sleep)
    real.arrive(2.5)
    assert wall[0] == real.now() == 2.5
    wall[0] += 1.0  # computing
    real.arrive(3.0)
    assert real.now() == 3.5, "a late reader does not wait"

    wall[0] = 10.0
    fast = SimulatedClock(now=lambda: wall[0])
    fast.arrive(2.5)
    assert (wall[0], fast.now()) == (10.0, 2.5)
    wall[0] += 1.0
    fast.arrive(3.0)
    assert fast.now() == 3.5


@pytest.mark.parametrize("engine", ["serial", "fused", "streams"])
def test_every_engine_narrates_alike(tiny_checkpoint, clip, tmp_path, capsys, engine):
    said = []
    for name in ("serial", engine):
        out = tmp_path / f"{name}.jsonl"
        assert run(tiny_checkpoint, clip, "--jsonl", str(out), "--max-new-tokens", "30", "--engine", name) == 0
        said.append([(token["step"], token["token_id"]) for token in tokens_of(out)])
    assert said[0] == said[1]
    assert f"engine {engine}: asked for" in capsys.readouterr().out


def test_an_engine_that_cannot_run_the_variant_is_refused(tiny_checkpoint, clip, capsys):
    argv = ["--model", str(tiny_checkpoint), "--video", str(clip), "--variant", "interleave", "--device", "cpu"]
    assert cli.run(stream.main, [*argv, "--engine", "fused"]) == 2
    assert "Take the engine 'serial'" in capsys.readouterr().err


def test_realtime_plays_at_the_files_own_pace(tiny_checkpoint, clip, tmp_path, capsys):
    """The last step of an n-second clip arrives at n - 0.5 s and cannot be told before."""
    num_steps = sum(1 for _ in iter_steps(clip))
    began = time.monotonic()
    out = tmp_path / "tokens.jsonl"
    assert run(tiny_checkpoint, clip, "--realtime", "--jsonl", str(out), "--max-new-tokens", "30") == 0
    assert time.monotonic() - began >= num_steps - 0.5
    assert tokens_of(out)[-1]["t_emit_s"] >= num_steps - 0.5
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("seen")]
    assert [line.split()[1] for line in lines] == [f"0-{step + 1}" for step in range(num_steps)]


def test_a_window_narrates_videos_of_any_length(tiny_checkpoint, clip, tmp_path):
    """Beyond --max-frames, and by both engines that can forget in the same words."""
    said = []
    for engine in ("serial", "fused"):
        out = tmp_path / f"{engine}.jsonl"
        flags = ["--window", "2", "--text-sink", "2", "--text-window", "4", "--max-frames", "2"]
        assert run(tiny_checkpoint, clip, "--jsonl", str(out), "--engine", engine, *flags) == 0
        said.append([(token["step"], token["token_id"]) for token in tokens_of(out)])
    num_steps = sum(1 for _ in iter_steps(clip))
    assert said[0] == said[1] and said[0][-1][0] == num_steps - 1
    assert run(tiny_checkpoint, clip, "--max-frames", "2") == 2
    assert run(tiny_checkpoint, clip, "--window", "0") == 2


@pytest.mark.parametrize("variant", sorted(TURNS))
def test_chat_systems_stream_too_and_tell_where_each_turn_ends(tiny_checkpoint, clip, tmp_path, capsys, variant):
    out, flags = tmp_path / "events.jsonl", ["--model", str(tiny_checkpoint), "--video", str(clip), "--device", "cpu"]
    argv = [*flags, "--variant", variant, "--jsonl", str(out), "--max-new-tokens", "4", "--max-frames", "2"]
    assert cli.run(stream.main, argv) == 0
    events = [json.loads(line) for line in out.read_text().splitlines()]
    turns, num_steps = [event for event in events if event.get("event") == "turn"], sum(1 for _ in iter_steps(clip))
    thinks, first = SYSTEMS[variant].thinks, {"streamingvlm": 1, "livecc": 3}.get(variant, num_steps)
    assert [turn["end_s"] for turn in turns] == list(range(first, num_steps + 1))
    assert turns[0]["start_s"] == 0 and all(isinstance(turn["text"], str) for turn in turns)
    assert sum(event.get("event") == "watched" for event in events) == num_steps
    assert all(turn["thought"] == thinks for turn in turns)
    tokens = [event for event in events if event.get("event") == "thought"] if thinks else tokens_of(out)
    assert all(0 < sum(token["step"] == i for token in tokens) <= 4 for i in range(first - 1, num_steps))
    shown = capsys.readouterr().out
    assert f"{'(thinks about ' if thinks else '('}0-{first} s)" in shown and "engine serial: " in shown
    assert cli.run(stream.main, [*argv, "--schedule", "wait-k:3"]) == 2
    assert "by no schedule" in capsys.readouterr().err


def test_keep_and_choose_are_policies_by_name(tiny_checkpoint, clip, tmp_path):
    said = {}
    for name, flags in (
        ("window", ("--window", "2", "--text-sink", "4", "--text-window", "4")),
        ("keep", ("--keep", "window:2:text_sink=4:text_window=4")),
        ("greedy", ("--choose", "greedy:1:max_new_tokens=9")),
        ("flags", ("--repetition-penalty", "1", "--max-new-tokens", "9")),
    ):
        out = tmp_path / f"{name}.jsonl"
        assert run(tiny_checkpoint, clip, "--jsonl", str(out), *flags) == 0
        said[name] = [token["token_id"] for token in tokens_of(out)]

    assert said["window"] == said["keep"] and said["greedy"] == said["flags"]
    assert len(said["greedy"]) == 9 < len(said["keep"])


@pytest.mark.parametrize(
    "flags, told",
    [
        (("--keep", "window:2", "--window", "2"), "both say what stays"),
        (("--choose", "greedy", "--stop-early"), "both say how tokens are chosen"),
        (("--keep", "nothing"), "window:16"),
        (("--keep", "flush"), "cannot be kept so"),
        (("--keep", "sink_window"), "take streamingvlm, livecc, vst\n"),
        (("--keep", "thoughts"), "take vst\n"),
        (("--keep", "recent", "--engine", "two_device"), "forgets nothing: take serial or fused"),
        (("--keep", "vstream", "--see", "dtd"), "merges whole patches, and see dtd:0.5 drops"),
        (("--window", "2", "--schedule", "sved"), "reads its newest words anew"),
        (("--variant", "livecc", "--see", "dtd"), "sees all tokens of its turns"),
    ],
)
def test_policies_that_contradict_or_cannot_be_are_refused(tiny_checkpoint, clip, capsys, monkeypatch, flags, told):
    monkeypatch.setattr(stream.StreamSettings, "load", lambda *_, **__: pytest.fail("loaded before it is refused"))
    assert run(tiny_checkpoint, clip, *flags) == 2
    assert told in capsys.readouterr().err

"""Comment on a long game and on events: what models are told, what is written, and going on after a kill."""

import json
import threading
from statistics import fmean

import numpy as np
import pytest
import yaml
from torch.distributed import HashStore

from swwatch.config import Parser, add_flags, read_settings
from swwatch.data.pixels import FrameEncoder
from swwatch.data.turns.transcript import text_of
from swwatch.data.video import iter_steps, read_clip
from swwatch.engine import turns
from swwatch.engine.turns import TurnSession
from swwatch.errors import UserError
from swwatch.evaluate.caption.settings import EvalSettings
from swwatch.evaluate.commentary import command, speaking, tasks
from swwatch.evaluate.commentary.events import ask, read_events
from swwatch.evaluate.commentary.games import read_games
from swwatch.evaluate.commentary.measure import comment_all
from swwatch.evaluate.commentary.settings import GenerateSettings
from swwatch.evaluate.commentary.texts import means
from swwatch.evaluate.quiz.settings import QuizSettings
from swwatch.launch.ranks import Team
from swwatch.rules.spans import Part
from swwatch.rules.systems import SYSTEMS
from tests.helpers.toy_game import GAME_S, write_rows
from tests.helpers.toy_game import read_rows as read


@pytest.fixture
def opened(monkeypatch):
    """Every session that is opened: (previous text, query, labels of its turns)."""
    seen = []

    class Watched(TurnSession):
        def __init__(self, model, turns, **options):
            self.labels = []
            seen.append((options["previous"], options["query"], self.labels))
            super().__init__(model, turns, **options)

        def turn(self, steps, **options):
            yield from super().turn(steps, **options)
            labels = [span for span in self.context if span.part is Part.LABEL]
            self.labels.append(self.turns.tokenizer.decode(labels[-1].ids))

    monkeypatch.setattr(turns, "TurnSession", Watched)
    return seen


def test_infinite_mode_is_one_stream_from_the_start_with_all_words_before(generate, games, tmp_path, opened):
    out = tmp_path / "out.jsonl"
    assert generate("inf-streams", out) == 0
    (row,) = read(out)
    assert (row["video"], row["chunk_start"], row["chunk_end"]) == ("game.mp4", 10, GAME_S)
    assert [(item["start_time"], item["end_time"]) for item in row["items"]] == [(s, s + 1) for s in range(10, GAME_S)]
    ((previous, query, labels),) = opened
    (game,) = read_games(games / "eval_all_metadata.jsonl")
    assert previous == f" {text_of(game.transcript.before(10))}" and len(previous.split()) == 20
    assert query == tasks.get("inf-streams").form().game
    assert labels[0] == "Time=10.0-11.0s" and labels[-1] == "Time=43.0-44.0s"
    assert not (tmp_path / "out_parts").exists()
    traces = read(tmp_path / "out_trace.jsonl")
    assert [(line["video_id"], line["num_frames"]) for line in traces] == [
        ("game.mp4:10", 20),
        ("game.mp4:20", 20),
        ("game.mp4:30", 20),
        ("game.mp4:40", 8),
    ]
    tokens, seconds = ([one for line in traces for one in line[name]] for name in ("num_tokens", "took_s"))
    assert len(tokens) == len(seconds) == len(row["items"]) and min(seconds) > 0
    assert 0 < tokens[0] < tokens[1] < tokens[2], "a turn sees the turns before it"
    assert means(traces) == {"frames": 68, "tokens": fmean(tokens), "seconds": fmean(seconds)}


def test_the_public_folders_form_is_read_and_its_scorer_finds_what_it_reads(generate, games, tmp_path, opened):
    """Videos in sub-folders; rows name the file alone, and have what is cut into segments by whole seconds."""
    (tmp_path / "NBA_EN").mkdir()
    (tmp_path / "NBA_EN" / "a.game.mp4").symlink_to(games / "videos" / "game.mp4")
    (game,) = read(games / "eval_all_metadata.jsonl")
    data, out = tmp_path / "eval_all_metadata.jsonl", tmp_path / "out.jsonl"
    data.write_text(json.dumps(game | {"video": "NBA_EN/a.game.mp4"}) + "\n")
    for root in (tmp_path, tmp_path / "NBA_EN"):
        flags = ("--data", data, "--videos", root, "--end", "13", "--restart", "--query", "Go")
        assert generate("inf-streams", out, *flags) == 0 and opened[-1][1] == "Go"
        (row,) = read(out)
        assert (row["video"], int(row["chunk_start"]), int(row["chunk_end"])) == ("a.game.mp4", 10, 13)
        assert [int(item["end_time"]) for item in row["items"]] == [11, 12, 13]
        assert all(isinstance(item["response"], str) for item in row["items"])
    data.write_text("".join(json.dumps(game | {"video": f"{folder}/a.mp4"}) + "\n" for folder in "xy"))
    with pytest.raises(UserError, match=r"a video of the name a.mp4 stands there twice"):
        generate("inf-streams", out, "--data", data, "--restart")


def test_chunk_mode_begins_anew_with_the_words_up_to_there(generate, games, tmp_path, opened):
    out = tmp_path / "out.jsonl"
    generate("inf-streams", out, "--chunk", "15")
    (row,) = read(out)
    assert len(row["items"]) == GAME_S - 10 and row["chunk_end"] == GAME_S
    assert [len(previous.split()) for previous, _, _ in opened] == [20, 50, 80]
    assert [labels[0] for _, _, labels in opened] == ["Time=10.0-11.0s", "Time=25.0-26.0s", "Time=40.0-41.0s"]
    assert [len(labels) for _, _, labels in opened] == [15, 15, 4]


def test_livecc_counts_from_the_beginning_of_its_stream_and_keeps_the_videos_times(generate, tmp_path, opened):
    out = tmp_path / "out.jsonl"
    generate("inf-streams", out, "--chunk", "20", system="livecc")
    assert [labels[0] for _, _, labels in opened] == ["Time=0.0-1.0s"] * 2  # two frames first, as in this benchmark
    assert [previous for previous, _, _ in opened] == ["", ""]
    (row,) = read(out)
    assert [item["end_time"] for item in row["items"]] == list(range(11, GAME_S + 1))


@pytest.mark.parametrize("flags", [(), ("--chunk", "12")], ids=["infinite", "chunk"])
@pytest.mark.parametrize("system", ["streamingvlm", "livecc"])
def test_a_killed_run_goes_on_as_if_it_had_not_been(generate, tmp_path, monkeypatch, flags, system):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    generate("inf-streams", whole, *flags, system=system)

    def dying(path, *, span, **options):
        for step in iter_steps(path, span=span, **options):
            if span[0] + step.arrival_s > 37:
                raise KeyboardInterrupt
            yield step

    with monkeypatch.context() as patch:
        patch.setattr(speaking, "iter_steps", dying)
        with pytest.raises(KeyboardInterrupt):
            generate("inf-streams", cut, *flags, system=system)
    part = tmp_path / "cut_parts" / "rank0.jsonl"
    assert [row["chunk_start"] for row in read(part)] == ([10, 20] if not flags else [10, 22])
    part.write_bytes(part.read_bytes() + b'{"video": "game.mp4", "chunk_st')  # what a kill leaves of a line
    seconds = []

    def counting(path, *, span, **options):
        seconds.append(span)
        return iter_steps(path, span=span, **options)

    monkeypatch.setattr(speaking, "iter_steps", counting)
    generate("inf-streams", cut, *flags, system=system)
    assert seconds == [(30 if not flags else 34, GAME_S)]
    assert read(cut) == read(whole)
    seconds.clear()
    generate("inf-streams", cut, *flags, system=system)
    assert not seconds and read(cut) == read(whole)
    traces = [
        {**line, "took_s": len(line["took_s"])}
        for run in ("cut", "whole")
        for line in read(tmp_path / f"{run}_trace.jsonl")
    ]
    assert traces[: len(traces) // 2] == traces[len(traces) // 2 :]


def test_a_stream_whose_state_is_behind_its_rows_tells_no_second_twice(generate, tmp_path, monkeypatch):
    """A kill between the row and the state."""
    out, save, count = tmp_path / "out.jsonl", speaking._save, []

    def dying(*arguments):
        count.append(1)
        if len(count) == 2:
            raise KeyboardInterrupt
        save(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(speaking, "_save", dying)
        with pytest.raises(KeyboardInterrupt):
            generate("inf-streams", out)
    generate("inf-streams", out)
    (row,) = read(out)
    assert [item["end_time"] for item in row["items"]] == list(range(11, GAME_S + 1))


def test_results_of_other_settings_are_not_mixed(generate, tmp_path):
    out = tmp_path / "out.jsonl"
    generate("inf-streams", out, "--end", "14")
    with pytest.raises(UserError, match="end_s was 14.0, is 16.0"):
        generate("inf-streams", out, "--end", "16")
    assert generate("inf-streams", out, "--end", "16", "--restart") == 0
    assert read(out)[0]["chunk_end"] == 16


@pytest.mark.parametrize("system", ["streamingvlm", "livecc"])
def test_events_are_asked_about_as_the_system_wants_it(generate, games, tmp_path, opened, system):
    out = tmp_path / "out.jsonl"
    generate("livesports-cc", out, system=system)
    rows = read(out)
    assert [(row["video_id"], row["event_id"], row["begin"], row["end"]) for row in rows] == [
        ("game", "0", 5, 11),
        ("game", "1", 6, 12),
    ]
    assert not any(" ..." in row["pred"] for row in rows)
    assert all(row["pred"].endswith("...") for row in rows) == (system == "livecc")
    assert [labels[0] for _, _, labels in opened] == (
        ["Time=0.0-3.0s"] * 2 if system == "livecc" else ["Time=5.0-6.0s", "Time=6.0-7.0s"]
    )
    (previous, query, _), _ = opened
    wording, event = tasks.get("livesports-cc").form(), read_events(games / "live.jsonl")[0]
    title = 'This is a video titled "Red against blue".'
    if system == "streamingvlm":
        assert (previous, query) == ("they begin", f"{wording.expert} {title}")
    else:
        assert previous == "" and query.endswith("Please continue to comment the video.")
        assert query.index(wording.expert) < query.index(title) < query.index("they begin")
    assert ask(event, SYSTEMS[system], wording) == {"query": query, "previous": previous}
    out.write_text(out.read_text().splitlines()[0] + "\n")  # one event is there
    opened.clear()
    generate("livesports-cc", out, system=system)
    assert len(opened) == 1 and read(out) == rows


def test_events_can_be_asked_about_as_in_the_benchmarks_own_run(generate, games, tmp_path, opened, monkeypatch):
    prompts = tasks.get("livesports-cc").form().facts()
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump({"prompts": prompts | {"apart": "\n", "go_on_alone": False}}))
    events = read(games / "live.jsonl")
    events[1]["preasr_text"] = ""
    write_rows(tmp_path / "live.jsonl", events)
    budgets, shown = [], []

    class Encoder(FrameEncoder):
        def __init__(self, processor, budget):
            budgets.append(budget)
            super().__init__(processor, budget)

        def encode(self, frames, num_frames):
            shown.append(frames)
            assert num_frames == 12
            return super().encode(frames, num_frames)

    monkeypatch.setattr(speaking, "FrameEncoder", Encoder)
    flags = ["--data", tmp_path / "live.jsonl", "--wording", own, "--positions", "livecc_compat"]
    flags += ["--shared-pixels", "--spread-frames"]
    generate("livesports-cc", tmp_path / "out.jsonl", *flags, system="livecc")
    (_, told, labels), (_, untold, _) = opened
    title = 'This is a video titled "Red against blue".'
    assert told.split("\n") == [prompts["expert"], title, "The commentary so far: they begin", prompts["go_on"]]
    assert untold.split("\n") == [prompts["expert"], title]
    assert labels == ["Time=0.0-3.0s", "Time=3.0-4.0s", "Time=4.0-5.0s", "Time=5.0-6.0s"]
    assert {budget.total_pixels for budget in budgets} == {SYSTEMS["livecc"].total_pixels}
    pictures = read_clip(games / "videos" / "game.mp4", fps=4, max_frames=None).frames  # 4 a second are all of them
    spread = np.linspace(20, 43, 12).round().astype(int)
    assert np.array_equal(np.concatenate(shown[:6]), pictures[spread])
    with pytest.raises(UserError, match="positions was 'livecc_compat'"):
        generate("livesports-cc", tmp_path / "out.jsonl", "--data", tmp_path / "live.jsonl", system="livecc")
    opened.clear()
    generate("livesports-cc", tmp_path / "base.jsonl", "--base-model", system="livecc")
    assert [query for _, query, _ in opened] == ["Red against blue"] * 2


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--spread-frames"], "go with livesports-cc"),
        (["--positions", "livecc_compat"], "'livecc_compat' is none of streamingvlm's"),
        (["--fps", "0.5", "--chunk", "22"], "--chunk 22 cuts a step of 4 s"),
    ],
)
def test_a_run_of_a_game_that_cannot_be_is_told(generate, tmp_path, flags, words):
    with pytest.raises(UserError, match=words):
        generate("inf-streams", tmp_path / "out.jsonl", *flags)


def test_a_game_at_one_frame_a_second(generate, tmp_path):
    generate("inf-streams", tmp_path / "out.jsonl", "--end", "18", "--fps", "1")
    (row,) = read(tmp_path / "out.jsonl")
    assert [(item["start_time"], item["end_time"]) for item in row["items"]] == [(s, s + 2) for s in (10, 12, 14, 16)]


def test_two_processes_write_the_bytes_of_one(generate, games, tiny_checkpoint, tmp_path):
    data = tmp_path / "eval.jsonl"
    (game,) = read(games / "eval_all_metadata.jsonl")
    for name in ("b.mp4", "a.mp4", "c.mp4"):
        (tmp_path / name).symlink_to(games / "videos" / "game.mp4")
    data.write_text("".join(json.dumps(game | {"video": name}) + "\n" for name in ("b.mp4", "a.mp4", "c.mp4")))
    flags = ["--data", data, "--videos", tmp_path, "--end", "20", "--sample"]
    assert generate("inf-streams", tmp_path / "one.jsonl", *flags) == 0
    flags += ["--task", "inf-streams", "--model", tiny_checkpoint, "--system", "streamingvlm", "--begin", "10"]
    flags += ["--save-every", "10", "--max-new-tokens", "3", "--device", "cpu", "--output", tmp_path / "two.jsonl"]
    settings = read_settings(GenerateSettings, [str(flag) for flag in flags], program="", about="")
    store, ends = HashStore(), {}

    def work(rank):
        with Team(store, rank, 2) as team:
            ends[rank] = comment_all(settings, team)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends == {0: None, 1: None}
    assert (tmp_path / "two.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    assert {line["video_id"] for line in read(tmp_path / "two_trace.jsonl")} == {
        line["video_id"] for line in read(tmp_path / "one_trace.jsonl")
    }
    assert [row["video"] for row in read(tmp_path / "two.jsonl")] == ["b.mp4", "a.mp4", "c.mp4"]


def test_what_is_saved_of_a_game_is_told_and_what_was_there_is_not_told_again(generate, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    generate("inf-streams", out, "--end", "25")
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        f"inf-streams: 1 games -> {out}",
        "1 of 1: game.mp4 up to 20 s",
        "1 of 1: game.mp4 up to 25 s",
        f"1 rows in {out}",
    ]
    generate("inf-streams", out, "--end", "25")
    again = [f"inf-streams: 1 games, 1 of them begun or done before -> {out}", f"1 rows in {out}"]
    assert capsys.readouterr().out.splitlines() == again


def test_rows_stand_in_the_order_of_the_data_whatever_was_made_first(generate, tmp_path):
    out = tmp_path / "out.jsonl"
    generate("livesports-cc", out)
    rows = out.read_text().splitlines()
    out.write_text(rows[1] + "\n")  # the second event is there
    generate("livesports-cc", out)
    assert out.read_text().splitlines() == rows


def test_a_missing_video_is_left_out_and_told(generate, games, tmp_path, capsys):
    data = tmp_path / "live.jsonl"
    rows = read(games / "live.jsonl")
    rows[0] |= {"video": "gone.mp4", "video_id": "gone"}
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert generate("livesports-cc", tmp_path / "out.jsonl", "--data", data) == 0
    assert [row["video_id"] for row in read(tmp_path / "out.jsonl")] == ["game"]
    printed = capsys.readouterr()
    assert "left out: gone_0" in printed.err and "1 left out" in printed.out
    with pytest.raises(UserError, match="nothing could be commented on"):
        generate("livesports-cc", tmp_path / "none.jsonl", "--videos", tmp_path)


def test_a_checkpoint_that_names_no_system_is_refused_with_the_flag_that_names_one(games, tiny_checkpoint, tmp_path):
    what = ["generate", "--task", "inf-streams", "--model", tiny_checkpoint, "--output", tmp_path / "out.jsonl"]
    what = [str(part) for part in [*what, "--data", games / "eval_all_metadata.jsonl", "--device", "cpu"]]
    with pytest.raises(UserError, match="give --system streamingvlm or livecc"):
        command.main(what)
    with pytest.raises(UserError, match="vst thinks and answers, and makes no commentary: take streamingvlm or"):
        command.main([*what, "--system", "vst"])


def test_mistakes_are_told(generate, tmp_path):
    with pytest.raises(UserError, match="go with inf-streams"):
        generate("livesports-cc", tmp_path / "out.jsonl", "--chunk", "100")
    with pytest.raises(UserError, match="go with inf-streams"):
        generate("livesports-cc", tmp_path / "out.jsonl", "--begin", "0")
    with pytest.raises(UserError, match="--end must lie behind"):
        generate("inf-streams", tmp_path / "out.jsonl", "--end", "3")
    with pytest.raises(UserError, match="no task 'other': choose one of inf-streams, livesports-cc"):
        generate("other", tmp_path / "out.jsonl", "--data", "x.json")


@pytest.mark.parametrize("program", ["quiz", "commentary", "eval"])
def test_torchrun_hands_every_flag_on(program):
    """It looks for flags of its own behind the script, too, and stops where one of ours is short for two of them."""
    from torch.distributed.run import get_args_parser

    parser = Parser(program, "")
    add_flags(parser, {"quiz": QuizSettings, "commentary": GenerateSettings, "eval": EvalSettings}[program])
    for flag in parser._option_string_actions:
        theirs = get_args_parser().parse_args(["-m", "swwatch.cli", program, flag, "1"])
        assert theirs.training_script_args == [program, flag, "1"]

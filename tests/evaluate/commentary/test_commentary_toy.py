"""The toy games: the public files' form, and commands that can be given as they are printed."""

import json
import shlex

import pytest

from swwatch.errors import UserError
from swwatch.evaluate.commentary import command, tasks
from swwatch.evaluate.commentary.events import read_events
from swwatch.evaluate.commentary.games import read_games, segments_of
from swwatch.toy import game
from tests.helpers.judge_server import better


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    root = tmp_path_factory.mktemp("toy") / "games"
    return root, *game.write_games(root, games=1, seconds=34)


def test_games_and_events_are_read_as_the_public_files_are(toy):
    root, long, short = toy
    (whole,), (event,) = read_games(long), read_events(short)
    assert (root / "videos" / whole.video).is_file() and event.video == whole.video
    assert (event.begin_s, event.end_s) == (20, 32)
    assert event.reference == " ".join(word.text for word in whole.transcript.between(20, 32))
    assert event.previous == " ".join(word.text for word in whole.transcript.before(20))
    assert whole.transcript.words[-1].end_s <= 34


def test_a_game_of_the_default_length_has_two_segments_that_count(tmp_path):
    from swwatch.data.turns.transcript import Transcript
    from swwatch.evaluate.commentary.games import Game
    from swwatch.toy.commentary import transcript

    words = transcript(game.make_game(0, 0, 220).events)
    segments = segments_of([Game("v", Transcript.read(words))], start_s=game.START_S)
    assert [(segment.start_s, segment.end_s) for segment in segments] == [(20, 120), (120, 220)]


def test_the_printed_commands_work(toy, tiny_checkpoint, server):
    root, long, short = toy
    server.brain = lambda request: better("first")
    replaced = {"CHECKPOINT": tiny_checkpoint, "URL": server.url, "JUDGE": "judge"}
    for line in game.commands(*toy):
        program, *given = shlex.split(line)[1:]
        short_run = ["--max-new-tokens", "3", "--device", "cpu"] if given[0] == "generate" else []
        few = ["--least-words", "20"] if given[0] == "judge" and "inf-streams" in given else []
        assert program == "commentary"
        assert command.main([str(replaced.get(word, word)) for word in [*given, *short_run, *few]]) == 0
    share = json.loads((root / "whole_vs_chunks_summary.json").read_text())
    rate = json.loads((root / "events_a_vs_events_b_summary.json").read_text())
    assert share["num_pairs"] == rate["num_pairs"] == 1
    last = (root / "whole_commentary.md").read_text().rstrip().splitlines()[-4:]
    version = tasks.get("inf-streams").form().version
    assert "| prompt | context | policy | commit | frames | tokens | seconds | win share against chunks |" in last[0]
    assert all(f"| {version} | {context} |" in line for line, context in zip(last[2:], ("all", "50 s"), strict=True))
    counts = [[float(cell) for cell in line.split("|")[7:10]] for line in last[2:]]
    assert all(frames == 28 and tokens > 28 and seconds > 0 for frames, tokens, seconds in counts)


def test_mistakes_are_told(toy, tmp_path):
    with pytest.raises(UserError, match="not an empty folder"):
        game.write_games(toy[0])
    with pytest.raises(UserError, match="32 s is the least"):
        game.write_games(tmp_path / "new", seconds=31)

"""Pictures and tables of streams without end tell what the sessions keep."""

import pytest
import torch

from swwatch.errors import UserError
from swwatch.pictures import endless as kept
from swwatch.pictures.command import main
from swwatch.policies.keep import SinkWindow, Window
from swwatch.rules.variants import Speaks, speaking

SMALL = SinkWindow(4, 4, 3, 5)


def seconds_of(runs, *what) -> list[int]:
    return [second for run in runs if run.what in what for second in run.seconds]


def test_streamingvlm_keeps_its_window_of_video_and_both_ends_of_its_words():
    story = kept.turns_story("streamingvlm", 20, (1, 2), 3, keep=SMALL)
    for now, runs in story.now.items():
        assert sorted(set(seconds_of(runs, "video"))) == list(range(max(0, now - 4), now))
        assert sorted(set(seconds_of(runs, "words"))) == list(range(max(0, now - 4), now))
    assert seconds_of(story.final_runs, "previous") == [0, 0, 0, 14, 14, 15, 15, 15]
    where = torch.cat([run.position_ids for run in story.final_runs], dim=1)
    assert int(where.min()) == 0 and int(where.max()) < 200 < story.largest


def test_livecc_flushes_all_video_at_once_and_keeps_every_word():
    story = kept.turns_story("livecc", 20, (1, 1), 2, keep="flush:8")
    counts = [len(set(seconds_of(story.now[now], "video"))) for now in range(3, 21)]
    assert max(counts) == 8 and counts[counts.index(8) + 1] == 1, "the second after a flush is alone"
    assert len(seconds_of(story.final_runs, "words")) == 2 * len(story.now)


@pytest.mark.parametrize("variant", speaking(Speaks.PARALLEL))
def test_parallel_variants_keep_a_window_and_both_ends_of_the_answer(variant):
    story = kept.endless_story(variant, 12, (2, 2), 3, 5, Window(4, 3, 6))
    assert sorted(set(seconds_of(story.final_runs, "video"))) == [8, 9, 10, 11]
    words = [second for second in (0, 9, 10, 11) for _ in range(3)]
    assert seconds_of(story.final_runs, "words") == words, "3 first and 6 last when the last second came, then 3 more"
    assert story.num_fed == 5 + 12 * (4 + 3) + 3 - 1, "prompt, video, words and header; the last word is still to come"


@pytest.mark.parametrize("variant", ["streamingvlm", "livecc", "gap"])
def test_a_story_is_drawn_and_told(variant, tmp_path, capsys):
    assert main(["--variant", variant, "--seconds", "30", "--window", "6", "--out", str(tmp_path)]) == 0
    assert (tmp_path / f"{variant}_endless.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert main(["--variant", variant, "--seconds", "30", "--window", "6", "--text"]) == 0
    printed = capsys.readouterr().out
    story = kept.endless_story("gap", 30, (2, 2), 3, 4, Window(6, 12, 24)) if variant == "gap" else None
    if story:
        held = sum(len(run) for run in story.final_runs)
        assert f"{held} of {story.num_fed} tokens fed are kept" in printed
    rows = [line.split() for line in printed.splitlines() if line.strip()[:1].isdigit()]
    assert {row[0] for row in rows} >= {"26", "29"}


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (["--variant", "interleave", "--seconds", "20"], "overlap, group, gap"),
        (["--variant", "all", "--seconds", "20"], "one variant"),
        (["--variant", "livecc", "--seconds", "2"], "--seconds must be"),
        (["--variant", "group", "--seconds", "20", "--eviction", "append"], "are for --variant streamingvlm"),
    ],
)
def test_what_cannot_be_drawn_says_so(flags, what, tmp_path):
    with pytest.raises(UserError, match=what):
        main([*flags, "--out", str(tmp_path)])

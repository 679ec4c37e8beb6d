"""What is drawn is what the trace says, and the drawings can stand in one page."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from swwatch.evaluate.report.gather import gather
from swwatch.evaluate.report.plots import draw_all, first_token_times, staleness_by_second, token_gaps, tokens_by_step


def token(step, emit_s, frame_s):
    return {"step": step, "newest_visible_step": step, "t_emit_s": emit_s, "t_frame_s": frame_s, "text": "a"}


CLIPS = [
    [token(0, 0.6, 0.5), token(0, 0.8, 0.5), token(2, 2.5, 2.5), token(2, 2.9, 2.5)],
    [token(1, 1.7, 1.5)],
    [],
]


def test_staleness_is_emission_minus_arrival_by_the_second_of_emission():
    seconds, quantiles = staleness_by_second(CLIPS)
    assert seconds.tolist() == [0, 1, 2]
    assert quantiles[:, 1] == pytest.approx([0.2, 0.2, 0.2])
    assert quantiles[0] == pytest.approx([0.11, 0.2, 0.29])


def test_gaps_lie_within_clips_and_first_tokens_open_them():
    assert token_gaps(CLIPS) == pytest.approx([0.2, 1.7, 0.4])
    assert first_token_times(CLIPS) == pytest.approx([0.6, 1.7])


def test_the_last_step_with_the_rest_is_kept_apart():
    mean, rest = tokens_by_step(CLIPS)
    assert mean.tolist() == [1, 0] and rest.tolist() == [2, 1]  # step 0: 2 and 0 tokens; step 1: the first clip's 0
    mean, rest = tokens_by_step([[token(0, 1, 1)]])  # spoke at one step only
    assert mean.tolist() == [] and rest.tolist() == [1]


def test_plots_are_whole_svg_in_the_pages_ink_without_ids_to_clash(runs):
    [run] = gather([runs.make()])
    plots = draw_all([replace(run, name="_a$b$--><c>"), replace(run, name="b")])
    assert [plot.key for plot in plots] == ["staleness", "gaps", "first_token", "tokens_per_step"]
    for plot in plots:
        ElementTree.fromstring(plot.svg)
        assert plot.svg.startswith('<svg role="img" aria-label="') and "currentColor" in plot.svg
        assert re.search(r" _a\$b\$--&gt;&lt;c&gt;( \(rest: \d\))?</text>", plot.svg) and "<!--" not in plot.svg
        assert plot.png.startswith(b"\x89PNG")
    ids = [name for plot in plots for name in set(re.findall(r'<g id="([^"]*)"', plot.svg))]
    assert ids == []


def test_the_same_runs_give_the_same_bytes(runs):
    path = runs.make()
    first, second = draw_all(gather([path])), draw_all(gather([path]))
    assert first == second


def test_without_any_trace_there_is_nothing_to_draw(runs):
    assert draw_all(gather([runs.make(trace=False)])) == []
    mixed = draw_all(gather([runs.make(trace=False), runs.make("traced")]))
    assert "traced" in mixed[0].svg and ">group<" not in mixed[0].svg


def test_long_runs_do_not_make_a_large_page(runs):
    [run] = gather([runs.make()])
    rng = np.random.default_rng(0)
    many = {}
    for clip in range(100):
        times = np.sort(rng.uniform(0.5, 30, 200))
        many[str(clip)] = [token(int(t), float(t) + 0.1, float(t)) for t in times]
    vars(run)["tokens"] = many  # as if its trace had been read
    assert max(len(plot.svg) for plot in draw_all([run])) < 60_000

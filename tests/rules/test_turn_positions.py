"""Positions of spans: the rule of M-RoPE, and what each policy makes of it."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig

from swwatch.errors import UserError
from swwatch.rules.families import FAMILIES, t_step
from swwatch.rules.spans import Part, Span
from swwatch.rules.turn_positions import POLICIES, get


def text(length: int, number: int = 0) -> Span:
    return Span(Part.ANSWER, (1,) * length, round=number)


def video(patches: int, rows: int, columns: int, number: int = 0) -> Span:
    return Span(Part.VIDEO, (2,) * (patches * rows * columns), (patches, rows, columns), number)


spans = st.lists(
    st.one_of(
        st.builds(text, st.integers(0, 5)),
        st.builds(video, st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)),
    ),
    min_size=1,
    max_size=8,
)


def test_a_worked_case():
    positions, end = get("mrope_full").place([text(2), video(2, 1, 2), text(2)], 0, t_step=2)
    assert positions.tolist() == [
        [0, 1, 2, 2, 4, 4, 5, 6],
        [0, 1, 2, 2, 2, 2, 5, 6],
        [0, 1, 2, 3, 2, 3, 5, 6],
    ]
    assert end == 7


@given(spans, st.integers(0, 7), st.sampled_from([1, 2, 4]))
def test_nothing_stands_where_anything_before_it_stood(run, start, t_step):
    positions, end = get("mrope_contiguous").place(run, start, t_step)
    highest, place = start - 1, 0
    for span in run:
        part = positions[:, place : place + len(span)]
        place += len(span)
        if len(span):
            assert part.min() == highest + 1, "no gap and no overlap"
            highest = int(part.max())
    assert end == highest + 1 and place == positions.shape[1]


@given(spans, st.integers(0, 8), st.sampled_from(sorted(POLICIES)))
def test_a_stream_placed_in_two_goes_stands_as_in_one(run, cut, name):
    whole, end = get(name).place(run, 0, 2)
    before, between = get(name).place(run[:cut], 0, 2)
    after, last = get(name).place(run[cut:], between, 2)
    assert torch.equal(whole, torch.cat([before, after], dim=1)) and last == end


@pytest.mark.parametrize("family", FAMILIES)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)), min_size=1))
def test_a_whole_conversation_stands_as_transformers_has_it(family, turns):
    """Where a video's pictures reach as far as its time does; behind longer ones its releases disagree."""
    upstream = getattr(transformers, f"{FAMILIES[family].prefix}Model")
    config = AutoConfig.for_model(family, vision_config=FAMILIES[family].vision(1, 32, 64, 32))
    run, step = [], t_step(config)
    for number, (length, patches, rows, columns) in enumerate(turns):
        patches = min(patches, (max(rows, columns) - 1) // step + 1)
        patches = 1 if FAMILIES[family].stamps else patches  # where text stands before every patch
        run += [text(length, number), video(patches, rows, columns, number)]
    run.append(text(2, len(turns)))
    kinds = torch.tensor([2 * (span.part is Part.VIDEO) for span in run for _ in span.ids])
    grids = torch.tensor([[span.grid[0], 2 * span.grid[1], 2 * span.grid[2]] for span in run if span.grid])
    stock = SimpleNamespace(config=config, get_vision_position_ids=partial(upstream.get_vision_position_ids, None))
    theirs, _ = upstream.get_rope_index(stock, torch.zeros_like(kinds)[None], kinds[None], video_grid_thw=grids)
    ours, _ = get("mrope_full").place(run, 0, step)
    assert torch.equal(ours, theirs[:, 0]) and torch.equal(ours, get("mrope_contiguous").place(run, 0, step)[0])


@given(spans)
def test_training_samples_of_flat_1d_stand_as_a_stream_of_flat_contiguous_begins(run):
    assert torch.equal(get("flat_1d").place(run, 0, 2)[0], get("flat_contiguous").place(run, 0, 2)[0])
    assert get("flat_contiguous").compact and not get("flat_1d").compact


def test_livecc_counts_plainly_from_the_second_turn_on():
    first, later = [text(1, -1), video(1, 2, 2, 0), text(1, 0)], [video(1, 2, 2, 1), text(2, 1)]
    compat, _ = get("livecc_compat").place(first + later, 0, 1)
    full, _ = get("mrope_full").place(first + later, 0, 1)
    flat, _ = get("flat_1d").place(first + later, 0, 1)
    assert torch.equal(compat[:, :6], full[:, :6])
    assert compat[:, 6:].tolist() == [list(range(4, 10))] * 3
    assert flat.tolist() == [list(range(12))] * 3
    assert not torch.equal(compat, full)


def test_an_unknown_policy_and_a_wrong_grid_are_told():
    with pytest.raises(UserError, match="mrope_contiguous"):
        get("mrope")
    with pytest.raises(ValueError, match="not 3 tokens"):
        Span(Part.VIDEO, (2, 2, 2), (1, 2, 2))

"""A third stream, what is thought: golden integers worked out by hand, and laws over streams and notes."""

import json
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swwatch.errors import UserError
from swwatch.policies.speak import RandomK, WaitK
from swwatch.policies.think import Notes, parse_think
from swwatch.rules.cursor import layout
from swwatch.rules.layout import TEXT, Kind
from swwatch.rules.schedule import Planned
from swwatch.rules.variants import VARIANTS, Speaks, speaking
from swwatch.rules.visibility import BEFORE, ORDER, OWN, PAST, SEES, SEES_CARRIED, STEP, can_see, can_see_carried

CASES = json.loads((Path(__file__).parents[1] / "golden/layouts_thoughts.json").read_text())
PARALLEL = speaking(Speaks.PARALLEL)

sizes = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), min_size=1, max_size=7)
schedules = st.one_of(st.builds(WaitK, st.integers(1, 5)), st.builds(RandomK, st.integers(1, 4), st.integers(0, 99)))
notes = st.builds(Notes, st.integers(1, 4), st.sampled_from([0.0, 1.0, 2.5, 4.0]), st.integers(1, 7))
samples = st.tuples(st.sampled_from(PARALLEL), st.integers(1, 7), sizes, st.integers(0, 25), schedules)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["variant"])
def test_layout_with_thoughts_equals_what_was_worked_out_by_hand(case):
    """Three steps of one token, two thoughts at the first and one at the second, one word at each."""
    plan = Planned(tuple(case["thoughts"]), tuple(case["starts"]))
    lengths = {name: case[name] for name in ("suffix_len", "header_len", "note_len")}
    grids = [tuple(case["grid"])] * case["steps"]
    ours = layout(case["variant"], case["prompt_len"], grids, case["answer_len"], case["k"], thoughts=plan, **lengths)
    assert list(ours.kind) == case["kind"] and ours.step.tolist() == case["step"]
    assert ours.position_ids.tolist() == case["position_ids"]
    assert ["".join("01"[int(x)] for x in row) for row in ours.visible()] == case["visible"]


def test_every_parallel_variant_has_a_case_with_thoughts_and_no_other_can_think():
    assert {case["variant"] for case in CASES} >= set(PARALLEL)
    for name in VARIANTS.keys() - set(PARALLEL):
        with pytest.raises(UserError, match="take a variant that has streams of their own: overlap, group, gap"):
            layout(name, 2, [(1, 1)] * 2, 3, thoughts=Planned((1, 0), (0,)))


@given(st.lists(st.integers(0, 4), min_size=4, max_size=4))
def test_who_sees_whom_is_the_table_of_streams(numbers):
    q_order, q_sees, k_order, k_step = numbers
    holds = {ORDER: k_order <= q_order, STEP: k_step <= q_sees, PAST: k_step < q_sees}
    holds |= {OWN: k_step >= q_sees, BEFORE: k_step < q_sees}
    for q, k in product(SEES_CARRIED, SEES_CARRIED):
        asked = [torch.tensor(value) for value in (q, q_order, q_sees, k, k_order, k_step, k_step)]
        carried = k in SEES_CARRIED[q] and all(holds[far] for far in SEES_CARRIED[q][k])
        assert bool(can_see_carried(*asked)) == carried
        if q in SEES and k in SEES:
            assert bool(can_see(*asked)) == (k in SEES[q] and holds[SEES[q][k]]) == carried


@given(samples, notes)
@settings(max_examples=80, deadline=None)
def test_laws_of_thoughts(sample, think):
    name, prompt_len, sizes, answer_len, schedule = sample
    plan = think.plan(len(sizes), 1.0)
    tokens = layout(name, prompt_len, sizes, answer_len, schedule=schedule, thoughts=plan)
    plain = layout(name, prompt_len, sizes, answer_len, schedule=schedule)
    visible, stream = tokens.visible(), [TEXT.get(kind) for kind in tokens.kind]
    thought = torch.tensor([s == TEXT[Kind.THOUGHT] for s in stream], dtype=torch.bool)
    said = torch.tensor([s == TEXT[Kind.ANSWER] for s in stream], dtype=torch.bool)
    watched = ~thought & ~said
    assert int(tokens.where(Kind.THOUGHT).sum()) == sum(plan.at)
    assert not visible[watched][:, ~watched].any() and not visible[thought][:, said].any()
    assert not visible.triu(1).any() and bool(visible.diagonal().all())
    # without its thoughts the sample sees what it sees without any, and stands there where axes are apart
    rest = (~thought).nonzero()[:, 0]
    assert torch.equal(visible[rest][:, rest], plain.visible())
    if name != "overlap":
        assert torch.equal(tokens.position_ids[:, rest], plain.position_ids)
    # a word sees the thoughts that were fed before its step began: all of earlier steps, but for one that waits
    steps, sees = tokens.step[thought], tokens.sees[said]
    for row, newest in zip(visible[said][:, thought], sees.tolist(), strict=True):
        unseen = (~row & (steps < newest)).sum()
        assert not row[steps >= newest].any() and int(unseen) <= 1
    # and a thought what was watched up to the step of the one that it predicts
    for row, newest in zip(visible[thought][:, watched], tokens.sees[thought].tolist(), strict=True):
        shown = tokens.step[watched] <= newest
        shown[:prompt_len] = True
        assert torch.equal(row, shown)


def test_a_note_begins_when_its_seconds_are_complete():
    assert Notes(2, 2.0, 3).plan(7, 1.0) == Planned((0, 2, 1, 2, 1, 2, 0), (0, 3, 6)), "at 2, 4 and 6 s, 3 tokens each"
    assert Notes(2, 2.0, 9).plan(7, 1.0) == Planned((0, 2, 2, 2, 2, 2, 0), (0, 4, 8)), "cut off by the next one"
    assert Notes(2, 0.0, 3).plan(6, 0.5) == Planned((2, 1, 2, 1, 2, 0), (0, 3, 6)), "note after note"
    assert Notes(1, 0.75).plan(4, 0.25) == Planned((0, 0, 1, 0), (0,)), "at another rate"


def test_notes_are_written_as_text_and_what_cannot_be_is_refused():
    think = Notes(3, 10.0, 40, 8, 64)
    assert str(think) == "notes:3:every_s=10:limit=40:sink=8:window=64" and parse_think(str(think)) == think
    for wrong in ("notes:0", "note:3", "notes:3:sink=4", "notes:2:window=0"):
        with pytest.raises(UserError, match="is not understood"):
            parse_think(wrong)
    assert Notes().stays(1000) is None and Notes(window=3).stays(3) is None
    assert Notes(sink=2, window=3).stays(9).tolist() == [0, 1, 6, 7, 8]

"""The rules: golden integers from two independent sources, and laws over prompts, grids and schedules."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swwatch.errors import UserError
from swwatch.policies.speak import Burst, RandomK, Stall, WaitK
from swwatch.rules.cursor import Cursor, layout
from swwatch.rules.layout import Kind, Layout
from swwatch.rules.patch import Patch
from swwatch.rules.schedule import spoken_steps
from swwatch.rules.variants import TURNS, VARIANTS, OwnAxis, RunningAxis, Speaks, get, speaking
from swwatch.rules.visibility import SAID

GOLDEN = Path(__file__).parents[1] / "golden"
PARALLEL = speaking(Speaks.PARALLEL)


def cases(name: str) -> list[dict]:
    data = json.loads((GOLDEN / name).read_text())
    return data if isinstance(data, list) else data["cases"]


def rows(visible: torch.Tensor) -> list[str]:
    return ["".join("01"[int(x)] for x in row) for row in visible]


def name_of(case: dict) -> str:
    return "-".join(str(case[key]) for key in ("variant", "steps", "answer_len")) + "-dropped" * ("kept" in case)


@pytest.mark.parametrize("case", cases("layouts.json"), ids=name_of)
def test_layout_equals_the_paper_as_recorded(case):
    """Cases with `kept` come from a list of all tokens worked out variant by variant, of which some were struck out;
    the same work gives the recorded cases without them."""
    grids = [Patch(*case["grid"], kept) for kept in case.get("kept", [None] * case["steps"])]
    ours = layout(case["variant"], case["prompt_len"], grids, case["answer_len"], wait_k=case["k"])
    assert list(ours.kind) == case["kind"]
    assert ours.step.tolist() == case["step"]
    assert ours.position_ids.dtype == torch.int64 and ours.position_ids.tolist() == case["position_ids"]
    assert ours.visible().dtype == torch.bool and rows(ours.visible()) == case["visible"]


@pytest.mark.parametrize("case", cases("layouts_announced.json"), ids=name_of)
def test_layout_of_announced_patches_equals_what_was_worked_out_by_hand(case):
    """Two text tokens announce each patch and one closes it: they belong to its step, and it begins behind them."""
    grids = [Patch(*case["grid"], None, case["before"], case["after"])] * case["steps"]
    sizes = {"wait_k": case["k"], "suffix_len": case["suffix_len"]}
    ours = layout(case["variant"], case["prompt_len"], grids, case["answer_len"], **sizes)
    assert list(ours.kind) == case["kind"]
    assert ours.step.tolist() == case["step"]
    assert ours.position_ids.tolist() == case["position_ids"]
    assert rows(ours.visible()) == case["visible"]


def release_layout(case: dict, variant: str) -> Layout:
    """The sample of a release case, its final newline counted to the answer."""
    frames, per_frame = case["frames"], case["tokens_per_frame"]
    _, height, width = case["grid_thw"]
    ids = case["input_ids"]
    prompt_len = ids.index(151656)
    tail = len(ids) - prompt_len - frames * per_frame - 3  # after the suffix
    if case["ending"] == "none":
        return layout(variant, prompt_len, [(height // 2, width // 2)] * frames, 0, header_len=0)
    return layout(variant, prompt_len, [(height // 2, width // 2)] * frames, tail - 3)


@pytest.mark.parametrize("variant", ["origin", "batch", "group", "gap"])
def test_positions_equal_the_release_where_it_follows_the_paper(variant):
    for case in cases(f"positions_{variant}.json"):
        ours = release_layout(case, variant)
        assert ours.position_ids.tolist() == case["position_ids"], case["name"]
        assert int(ours.position_ids.max()) + 1 - len(ours) == case["mrope_position_delta"]


def test_group_mask_equals_the_release_up_to_its_final_newline():
    for case in cases("mask_group_train.json"):
        ours = release_layout(case, "group").visible()
        theirs = [row[:-1] for row in case["visible"][:-1]]
        assert rows(ours[:-1, :-1]) == theirs, case["name"]


grids = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), min_size=1, max_size=6)
schedules = st.one_of(
    st.builds(WaitK, st.integers(1, 5)),
    st.builds(RandomK, st.integers(1, 4), st.integers(0, 99), st.text(max_size=3)),
    st.builds(Burst, st.integers(1, 3), st.integers(1, 4)),
    st.builds(Stall, st.integers(1, 3), st.integers(1, 4), st.integers(0, 3)),
)
samples = st.tuples(st.sampled_from(sorted(VARIANTS)), st.integers(1, 7), grids, st.integers(0, 25), schedules)
around = st.sampled_from([(0, 0), (7, 1)])


def announced(sizes, around: tuple[int, int]) -> list[Patch]:
    """Patches of these sizes, with so many text tokens before and behind each."""
    return [Patch(rows, columns, None, *around) for rows, columns in sizes]


@given(samples, around)
@settings(max_examples=150, deadline=None)
def test_laws_of_visibility(sample, around):
    name, prompt_len, sizes, answer_len, schedule = sample
    tokens = layout(name, prompt_len, announced(sizes, around), answer_len, schedule=schedule)
    visible, text = tokens.visible(), tokens.where(Kind.HEADER) | tokens.where(Kind.ANSWER)
    assert bool(visible.diagonal().all())
    assert not visible.triu(1).any(), "a row sees nothing later in the training sequence"
    if VARIANTS[name].streams == 1:
        assert torch.equal(visible, torch.ones_like(visible).tril())
        return
    assert not visible[~text][:, text].any(), "what is watched never sees text"
    assert bool(visible[text][:, tokens.where(Kind.PROMPT)].all())
    # a text row knows the video exactly up to the step of the token that it predicts
    said_steps = [0] * 3 + spoken_steps(schedule, answer_len, len(sizes))
    predicted = said_steps[1:] + said_steps[-1:]
    watched = ~text & ~tokens.where(Kind.PROMPT)
    for row, newest in zip(visible[text], predicted, strict=True):
        assert torch.equal(row[watched], tokens.step[watched] <= newest)


@given(samples, around)
@settings(max_examples=150, deadline=None)
def test_laws_of_positions(sample, around):
    name, prompt_len, sizes, answer_len, schedule = sample
    tokens = layout(name, prompt_len, announced(sizes, around), answer_len, schedule=schedule)
    pos, video = tokens.position_ids, tokens.where(Kind.VIDEO)
    assert torch.equal(pos[:, :prompt_len], torch.arange(prompt_len).expand(3, -1))
    assert bool((pos[:, ~video].max(0).values == pos[:, ~video].min(0).values).all()), "text is one-dimensional"
    text = pos[0, tokens.where(Kind.HEADER) | tokens.where(Kind.ANSWER)]
    assert bool((text.diff() > 0).all()), "text positions rise"
    for step, (height, width) in enumerate(sizes):
        patch = pos[:, video & (tokens.step == step)]
        t, h, w = patch[:, 0].tolist()
        want = [[t, h + r, w + c] for r in range(height) for c in range(width)]
        assert patch.T.tolist() == want
        if around[0]:  # all that was watched stands in one line: stamp, patch, what closes it
            text_around = pos[0, tokens.where(Kind.AROUND) & (tokens.step == step)].tolist()
            end = max(t, h + height - 1, w + width - 1)
            assert t == h == w and text_around == [*range(t - 7, t), end + 1]
    rule = VARIANTS[name].positions
    if issubclass(rule, OwnAxis):
        assert torch.equal(text, torch.arange(len(text)) + rule.first)
    if issubclass(rule, RunningAxis):
        assert bool((pos.max(0).values.cummax(0).values == pos.max(0).values)[~video].all()), "one running axis"


@given(samples, around)
@settings(max_examples=100, deadline=None)
def test_a_token_keeps_its_position_when_more_video_arrives(sample, around):
    """What permits caching: the layout of the first steps is a part of the layout of all (streaming variants)."""
    name, prompt_len, sizes, answer_len, schedule = sample
    if VARIANTS[name].speaks is Speaks.OFFLINE or len(sizes) < 2:
        return
    spoken = spoken_steps(schedule, answer_len, len(sizes))
    early = sum(step < len(sizes) - 1 for step in spoken)
    whole = layout(name, prompt_len, announced(sizes, around), answer_len, schedule=schedule)
    longer = layout(name, prompt_len, announced([*sizes, (2, 2)], around), answer_len, schedule=schedule)
    for kind, upto in ((Kind.VIDEO, None), (Kind.HEADER, None), (Kind.AROUND, None), (Kind.ANSWER, early)):
        ours, theirs = whole[whole.where(kind)], longer[longer.where(kind)]
        n = len(ours) if upto is None else upto
        assert torch.equal(ours.position_ids[:, :n], theirs.position_ids[:, :n]), kind


@given(samples, st.data())
@settings(max_examples=100, deadline=None)
def test_dropping_tokens_strikes_them_out_and_moves_nothing(sample, data):
    name, prompt_len, sizes, answer_len, schedule = sample
    patches = [
        Patch(rows, columns, tuple(sorted(data.draw(st.sets(st.integers(0, rows * columns - 1))))))
        for rows, columns in sizes
    ]
    whole = layout(name, prompt_len, sizes, answer_len, schedule=schedule)
    video = whole.where(Kind.VIDEO).nonzero()[:, 0].split([patch.num_arrived for patch in patches])
    dropped = [set(run.tolist()) - set(run[list(p.kept)].tolist()) for run, p in zip(video, patches, strict=True)]
    left = [i for i in range(len(whole)) if i not in set().union(*dropped)]
    ours = layout(name, prompt_len, patches, answer_len, schedule=schedule)
    assert len(ours) + sum(patch.num_dropped for patch in patches) == len(whole)
    assert torch.equal(ours.position_ids, whole.position_ids[:, left])
    assert torch.equal(ours.visible(), whole.visible()[left][:, left])
    assert ours.step.tolist() == whole.step[left].tolist()


words_said = st.lists(st.integers(0, 5), min_size=6, max_size=6)


@given(st.sampled_from(PARALLEL), st.integers(1, 7), grids, words_said, around)
@settings(max_examples=100, deadline=None)
def test_watching_ahead_gives_the_same_positions_as_taking_turns(name, prompt_len, sizes, counts, around):
    """A parallel engine lays out the next patch before or between the current words; a serial one after them."""
    turns, ahead = Cursor(get(name)), Cursor(get(name))
    for cursor in (turns, ahead):
        cursor.prompt(prompt_len)
    sizes = announced(sizes, around)
    patches = {"turns": [], "ahead": [ahead.watch(*sizes[0])]}
    words = {"turns": [], "ahead": []}
    for step in range(len(sizes)):
        patches["turns"].append(turns.watch(*sizes[step]))
        for _ in range(counts[step]):
            words["turns"].append(turns.say(1, step))
        middle = counts[step] // 2
        words["ahead"] += [ahead.say(1, step) for _ in range(middle)]
        if step + 1 < len(sizes):
            patches["ahead"].append(ahead.watch(*sizes[step + 1]))
        words["ahead"] += [ahead.say(1, step) for _ in range(counts[step] - middle)]
    for parts in (patches, words):
        for ours, theirs in zip(parts["turns"], parts["ahead"], strict=True):
            assert torch.equal(ours.position_ids, theirs.position_ids)
            assert torch.equal(ours.order, theirs.order)


@given(st.sampled_from(sorted(VARIANTS)), grids, schedules)
@settings(max_examples=50, deadline=None)
def test_a_late_end_is_a_step_without_video(name, sizes, schedule):
    tokens = layout(name, 4, sizes + [(0, 0)], 20, schedule=schedule)
    suffix = tokens[tokens.where(Kind.SUFFIX)]
    assert set(suffix.step.tolist()) == {len(sizes)}
    assert int(tokens.where(Kind.VIDEO).sum()) == sum(r * c for r, c in sizes)


def test_unknown_variant_names_all():
    with pytest.raises(UserError, match=", ".join(VARIANTS)):
        layout("grupo", 3, [(1, 1)], 3)


def test_said_stream_exists_only_in_parallel_variants():
    for name, variant in VARIANTS.items():
        tokens = layout(name, 3, [(1, 2)] * 3, 8)
        assert bool((tokens.stream == SAID).any()) == (variant.streams == 2) == (not tokens.is_causal)
        assert variant.streams == (2 if variant.speaks is Speaks.PARALLEL else 1)


def test_every_variant_has_a_golden_case():
    """A row without one is a row whose positions nobody has worked out by hand: add it to layouts.json."""
    golden = {case["variant"] for case in cases("layouts.json")}
    assert golden == set(VARIANTS), f"no golden case in {GOLDEN / 'layouts.json'}: {set(VARIANTS) - golden}"


def test_no_name_is_in_two_tables_and_each_row_has_the_name_it_is_found_by():
    assert not set(VARIANTS) & set(TURNS)
    assert all(name == variant.name for name, variant in (VARIANTS | TURNS).items())


def test_tables_and_rules_are_read_without_torch():
    rooms = ("rules.variants", "rules.systems", "rules.schedule", "rules.visibility", "rules.patch", "rules.spans")
    rooms += ("rules.turn_positions", "policies.speak")
    code = f"import sys, {', '.join('swwatch.' + room for room in rooms)}\n"
    code += "print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""Carriers in training: a sample as a stream under `keep carrier` has it (P1)."""

import random
from dataclasses import replace
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swwatch.data.batch import stack_rows
from swwatch.data.collator import Collator
from swwatch.data.prompt import IGNORED, fill
from swwatch.data.samples import Sample
from swwatch.data.timed import decisions_of
from swwatch.data.turns.conversation import TimedQuestion
from swwatch.data.turns.dataset import turns_seen
from swwatch.data.turns.samples import SampleFormat
from swwatch.engine.requests import drive
from swwatch.engine.source import Ask
from swwatch.engine.trace import Spoken
from swwatch.errors import UserError
from swwatch.model.late import look
from swwatch.model.settings import Settings
from swwatch.policies.choose import Greedy
from swwatch.policies.keep import parse_keep
from swwatch.policies.memory.carrier import Carrier
from swwatch.policies.see.curve import Curve
from swwatch.policies.speak import RandomK, WaitK
from swwatch.policies.think import Notes
from swwatch.rules import turn_positions as positions
from swwatch.rules.cursor import layout, layout_of
from swwatch.rules.layout import Kind
from swwatch.rules.schedule import Planned
from swwatch.rules.spans import Part, ids_of
from swwatch.rules.systems import SYSTEMS
from swwatch.rules.variants import Speaks, speaking
from swwatch.rules.visibility import CARRIER, WATCHED
from tests.engine.test_thinking import told
from tests.helpers.streams import Paced, ToldSession, full_forward, random_stream
from tests.helpers.turn_streams import GRID, random_steps, streamed, told_of
from tests.policies import test_seam as seam

PARALLEL = speaking(Speaks.PARALLEL)
KEEP = Carrier()
clips, world = seam.clips, seam.world

sizes = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), min_size=1, max_size=9)
schedules = st.one_of(st.builds(WaitK, st.integers(1, 4)), st.builds(RandomK, st.integers(1, 3), st.integers(0, 99)))
asked = st.dictionaries(st.integers(1, 8), st.lists(st.integers(0, 199), min_size=1, max_size=5), max_size=2)


def carrying(model, keep=KEEP):
    """The model as one that is trained so."""
    return mock.patch.object(model, "settings", replace(model.settings, keep=keep))


def test_the_mask_is_the_one_in_the_docstring():
    tokens = layout("group", 0, [(1, 2)] * 2, 2, 1, suffix_len=0, header_len=0).carried()
    rows = ["".join("01"[int(x)] for x in row) for row in tokens.visible()[:7, :7]]
    assert rows == ["1000000", "1100000", "1110000", "0011000", "0011100", "0011110", "0010011"]
    assert tokens.position_ids[:, 2].equal(tokens.position_ids[:, 1])


@pytest.mark.parametrize("variant", PARALLEL)
@given(sizes, schedules, asked, st.booleans(), st.integers(1, 30), st.booleans(), st.integers(0, 99))
@settings(max_examples=4, deadline=None)
def test_p1_streaming_equals_training(load_tiny, variant, sizes, schedule, asked, thinks, answer_len, late, seed):
    """Over grids, schedules, questions in mid-stream or thoughts, and streams that end late."""
    loaded = load_tiny(variant)
    stream = random_stream(loaded, sizes, 1 + seed % 8, answer_len, seed)
    asked = {step: ids for step, ids in asked.items() if step < len(sizes) + late and not thinks}
    think, notes, seen = None, None, []
    if thinks:
        think = Notes(2, window=99)
        plan = think.plan(len(sizes) + late, 1.0)
        notes = plan, random.Random(seed).choices(range(200), k=sum(plan.at))
    with carrying(loaded.model):
        theirs, tokens = full_forward(loaded, stream, schedule, late, asked, notes)
    # one word more than it is told: at the limit an answer would be over, and a question would begin another one
    most = answer_len + bool(asked)
    how = {"schedule": schedule, "choose": Greedy(max_new_tokens=most), "think": think, "keep": KEEP}
    session = ToldSession(loaded.model, stream.prompt, **how).tell(stream.answer)
    if thinks:
        seen = told(session, notes[1])
    orders = {step: [Ask(tuple(ids), "?")] for step, ids in sorted(asked.items())}
    for event in drive(loaded.model, session.run(Paced(stream, None, orders, late))):
        if asked and isinstance(event, Spoken) and len(session.seen_logits) == answer_len:
            break
    torch.testing.assert_close(torch.stack([*seen, *session.seen_logits]), theirs, atol=1e-4, rtol=0)
    assert int(session.cache.tokens[WATCHED].where(Kind.VIDEO).sum()) == len(session.cursor.placed)


@pytest.mark.parametrize(("variant", "see"), [("overlap", seam.Bright()), ("gap", Curve())], ids=str)
def test_p1_of_what_a_policy_of_see_leaves(world, variant, see):
    """Some patches leave nothing, and these have no carrier. Samples come through dataset and collator."""
    model, samples = world(variant, see, WaitK(2))
    with carrying(model):
        sample, stream = samples[0], seam.stream_of(samples[0])
        how = {"keep": KEEP, "choose": Greedy(max_new_tokens=len(stream.answer))}
        session = ToldSession(model, stream.prompt, **how).tell(stream.answer)
        for _ in drive(model, session.run(Paced(stream))):
            pass
        torch.testing.assert_close(torch.stack(session.seen_logits), seam.trained(model, sample), atol=1e-4, rtol=0)
        total = sum(int((s.labels != IGNORED).sum()) for s in samples)
        with torch.no_grad():
            rows = [[[s] for s in samples], [samples]]
            apart, packed = (float(model(**Collator(0).rows(row), num_items_in_batch=total).loss) for row in rows)
        assert packed == pytest.approx(apart, abs=1e-5)
        held = session.cache.tokens[WATCHED]
        assert int(held.where(Kind.VIDEO).sum()) == len(set(held.step[held.where(Kind.VIDEO)].tolist())) <= 7


def test_rows_cannot_be_added_where_nobody_says_who_sees_them(load_tiny):
    loaded = load_tiny("gap")
    tokens = layout("gap", 5, [(2, 2)] * 2, 3)
    how = {"position_ids": tokens.position_ids[:, None], "attention_mask": tokens.visible()[None, None]}
    stream = random_stream(loaded, [(2, 2)] * 2)
    how |= {"pixel_values_videos": torch.cat(stream.pixels), "video_grid_thw": torch.cat(stream.grids)}
    with carrying(loaded.model), pytest.raises(UserError, match="keep carrier.* adds rows: pass columns"):
        loaded.model(input_ids=torch.zeros((1, len(tokens)), dtype=torch.int64), **how)
    kept = [Settings.resolve({"variant": name, "keep": "carrier:5"}).carriers for name in ("vst", "livecc", "gap")]
    assert kept == [None, 5, 5], "what thinks has carriers in sessions alone"


@pytest.mark.parametrize("system", ["streamingvlm", "livecc"])
def test_p1_and_p9_of_chat_turns(load_tiny, system):
    """Words of a turn see its video, what comes later its carriers. Positions are those of one whole conversation."""
    loaded, keep = load_tiny(system), parse_keep("carrier:9:turns_s=none:text_sink=none:text_window=none")
    model, form = loaded.model, SampleFormat(loaded.turns(SYSTEMS[system]), keep=keep)
    asked = (TimedQuestion(2.5, "Who is it?", "A man"),)
    spoken = told_of([[i, i + 0.8, f"w{i}"] for i in range(7)], questions=asked)
    batches, apart = [], []
    for count in (5, 4):
        spans, shown, _ = form.spans(spoken, (count, *GRID), 0.0)
        turn = 0 if system == "livecc" else 2
        session, _ = streamed(loaded, spans, spoken, 0.0, shown, {turn: "Who is it?"}, keep=keep, policy="mrope_full")
        where, _ = positions.of(SYSTEMS[system], "mrope_full").place(spans, 0, model.t_per_step)
        tokens = replace(layout_of(spans, where), sees=turns_seen(spans))
        ids, steps = torch.tensor(ids_of(spans)), random_steps(loaded, shown, (GRID,))
        labels = torch.where(torch.tensor([s.part is Part.ANSWER for s in spans for _ in s.ids]), ids, IGNORED)
        pixels, grid = torch.cat([step.pixel_values for step in steps]), torch.tensor([[shown, 4, 4]])
        batches.append(Sample(ids, labels, tokens, pixels, grid))
        with carrying(model, keep), torch.no_grad():
            logits = model(**Collator(0).batch(batches[-1:])).logits[0]
            apart.append(model(**Collator(0).batch(batches[-1:]), num_items_in_batch=9).loss)
        patch = (tokens.where(Kind.VIDEO).cumsum(0) - 1) // 4
        theirs = logits[tokens.carried(patch).stream != CARRIER][:-1][labels[1:] != IGNORED]
        torch.testing.assert_close(torch.stack(session.seen_logits), theirs, atol=1e-4, rtol=0)
    with carrying(model, keep), torch.no_grad():
        packed = model(**Collator(0).rows([batches]), num_items_in_batch=9).loss
    assert float(packed) == pytest.approx(float(sum(apart)), rel=1e-5)


def test_rows_of_a_batch_are_those_of_its_samples_and_what_is_decided_or_learned_stays_where_it_was(load_tiny):
    loaded, plan = load_tiny("group"), Planned((0, 2, 1, 0, 3), (0, 3))
    tokens = layout("group", 5, [(1, 2)] * 5, 6, schedule=plan, starts=plan.starts)
    stream, decisions = random_stream(loaded, [(1, 2)] * 5, 5, 6), decisions_of(tokens, plan, balanced=False)
    ids, labels = fill(tokens, loaded.markup, stream.prompt, stream.answer)
    position_ids, columns = stack_rows([[tokens]])
    rows = {"input_ids": ids[None], "position_ids": position_ids, "columns": columns}
    rows |= {"labels": labels[None], "decisions": decisions[None], "weights": None}
    with carrying(loaded.model), torch.no_grad():
        rows, _ = look(loaded.model, rows, torch.cat(stream.pixels), torch.cat(stream.grids), None)
    whole = tokens.carried()
    theirs = stack_rows([[whole]])
    assert torch.equal(rows["position_ids"], theirs[0]) and torch.equal(rows["columns"], theirs[1])
    stays = whole.stream != CARRIER
    for name, values, nothing in (("decisions", decisions, 0), ("labels", labels, IGNORED)):
        assert torch.equal(rows[name][0, stays], values) and bool((rows[name][0, ~stays] == nothing).all())

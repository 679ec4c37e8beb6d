"""Policies of SPEAK that a model is trained for: captions with their times as samples, the objective, the decisions.

What holds of every policy that decides is in test_deciding.py.
"""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from swwatch.data.collator import Collator
from swwatch.data.prompt import IGNORED, fill, load_prompts
from swwatch.data.timed import captions_of, decisions_of, plan_of
from swwatch.engine.session import Session
from swwatch.errors import UserError
from swwatch.model.late import _moved
from swwatch.policies.speak import SPEAK, parse_schedule
from swwatch.rules.cursor import layout
from swwatch.rules.layout import Kind
from swwatch.rules.patch import Patch
from swwatch.rules.schedule import Now, Planned, spoken_steps
from swwatch.rules.variants import VARIANTS, Speaks
from tests.helpers.small_clips import clip_dataset, make_timed_clips
from tests.policies.test_deciding import Saying, opened, played, scenes
from tests.train.test_packing import gradients_of

LEARNED = [name for name, kind in SPEAK.items() if kind.learned]
STREAMING = [name for name, variant in VARIANTS.items() if variant.speaks in (Speaks.PARALLEL, Speaks.ALTERNATING)]


@pytest.fixture(scope="session")
def timed_clips(made_once):
    """An annotation file of eight clips of 2 to 4 s: every third one has no captions, the others one or two."""
    return made_once("timed-clips", lambda folder: make_timed_clips(folder, 8)) / "train.jsonl"


# ---- the rule -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEARNED)
@given(st.none() | st.floats(0, 1), st.floats(0, 1), st.booleans(), st.booleans())
def test_it_speaks_where_not_yet_is_unlikely_or_an_answer_goes_on(name, not_yet, floor, begins, going):
    policy = parse_schedule(f"{name}:4:floor={floor!r}").begin()
    speaks = begins or going or (not_yet is not None and not_yet < floor)
    assert policy.budget(Now(3, 3.5, begins, going=going, not_yet=not_yet)) == (4 if speaks else 0)


# ---- samples --------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), max_size=6),
    st.integers(1, 12),
    st.integers(1, 4),
    st.sampled_from([1.0, 0.5]),
)
def test_answers_begin_when_their_captions_are_due_or_the_one_before_is_over(captions, num_steps, k, step_s):
    """Against a clock that goes from step to step. Times in quarters of a second, sorted."""
    captions = sorted(captions)
    times, lengths = [quarter / 4 for quarter, _ in captions], [length for _, length in captions]
    plan = plan_of(times, lengths, num_steps, step_s, k)
    waiting, said, starts, left = list(zip(times, lengths, strict=True)), [], [], 0
    for step in range(num_steps):
        now_s, last = (step + 0.5) * step_s, step == num_steps - 1
        due = bool(waiting) and waiting[0][0] <= (num_steps * step_s if last else now_s)
        if not left and due:
            starts.append(sum(said))
            left = waiting.pop(0)[1]
        said.append(left if last else min(k, left))
        left -= said[-1]
    assert plan == Planned(tuple(said), tuple(starts))
    assert spoken_steps(plan, sum(said), num_steps, step_s) == [
        s for s, count in enumerate(said) for _ in range(count)
    ]


@pytest.mark.parametrize("variant", STREAMING)
def test_decided_is_at_the_last_watched_token_of_each_step_but_where_an_answer_goes_on(variant):
    plan = Planned((0, 2, 1, 0, 3), (0, 3))
    tokens = layout(variant, 4, [(1, 2)] * 5, 6, schedule=plan, starts=plan.starts)
    decisions = decisions_of(tokens, plan, balanced=False)
    rows = decisions.nonzero()[:, 0]
    assert [(int(tokens.step[row]), float(decisions[row])) for row in rows] == [(0, -1), (1, 1), (3, -1), (4, 1)]
    assert tokens.kind_ids[rows].tolist() == [1, 1, 1, 2], "video, and the suffix at the last step"
    for row in rows.tolist():
        alike = (tokens.step == tokens.step[row]) & (tokens.where(Kind.VIDEO) | tokens.where(Kind.SUFFIX))
        assert row == int(alike.nonzero()[-1])
    headers = tokens.step[tokens.where(Kind.HEADER)].tolist()
    assert headers == [1, 1, 1, 4, 4, 4]
    even = decisions_of(tokens, plan, balanced=True)
    assert float(even[even > 0].sum()) == float(-even[even < 0].sum()) == 2
    assert float(decisions_of(tokens, Planned((0,) * 5, ()), True).sum()) == pytest.approx(-1), "silence alone"


@pytest.mark.parametrize(
    ("captions", "why"),
    [
        (None, "no captions with their times.*wait-k"),
        ([{"text": "a"}], "at_s must be seconds"),
        ([{"at_s": True, "text": "a"}], "at_s must be seconds"),
        ([{"at_s": float("nan"), "text": "a"}], "at_s must be seconds"),
        ([{"at_s": 1, "text": " "}], "must say something"),
        ([{"at_s": 2, "text": "a"}, {"at_s": 1, "text": "b"}], "not in the order of time"),
    ],
)
def test_captions_that_are_none_are_refused(captions, why):
    with pytest.raises(UserError, match=why):
        captions_of({"captions": captions})


@pytest.mark.parametrize("name", LEARNED)
def test_a_sample_holds_an_answer_for_each_caption_and_its_length_is_known_before(load_tiny, timed_clips, name):
    loaded = load_tiny("group", schedule=f"{name}:3")
    dataset = clip_dataset(loaded, timed_clips, "group", loaded.settings.schedule, prompts=load_prompts())
    for index, texts in ((0, []), (1, ["a red circle"]), (2, ["a red circle", "a blue square moves"])):
        sample = dataset[0, index].sample
        said = loaded.tokenizer.decode(sample.input_ids[sample.labels != IGNORED])
        assert said == "".join(f"{text}<|im_end|>" for text in texts)
        assert int((sample.decisions > 0).sum()) == len(texts) and bool((sample.decisions < 0).any())
        assert sample.num_learned == int((sample.labels != IGNORED).sum() + sample.decisions.count_nonzero())
        record = dataset.records[index]
        ((length, _),) = dataset.counter()([record], [dataset.measure(record)])
        longest = max(map(len, dataset.prompt_ids.values()))
        prompt = int(sample.tokens.where(Kind.PROMPT).sum())
        assert length - longest == len(sample.tokens) - prompt
    bare = {key: value for key, value in record.items() if key != "captions"}
    assert "captions with their times" in dataset.counter()([bare], [(4, 56, 56)])[0]
    with pytest.raises(UserError, match="captions with their times"):
        dataset.build(bare, 0)


# ---- the objective --------------------------------------------------------------------------------------------------


def hidden_of(model, **inputs) -> torch.Tensor:
    """(L, D) after the last norm of one sequence."""
    held = []
    hook = model.lm_head.register_forward_pre_hook(lambda _, given: held.append(given[0]))
    with torch.no_grad():
        model(**inputs)
    hook.remove()
    return held[0][0]


@pytest.mark.parametrize("way", ["chunked", "whole"])
@pytest.mark.parametrize("name", LEARNED)
def test_the_loss_is_that_of_words_and_weighed_decisions(load_tiny, timed_clips, name, way, monkeypatch):
    loaded = load_tiny("group", schedule=f"{name}:3:balanced=true")
    model = loaded.model
    dataset = clip_dataset(loaded, timed_clips, "group", loaded.settings.schedule, prompts=load_prompts())
    sample = dataset[0, 2].sample
    batch = Collator(0).batch([sample])
    hidden = hidden_of(model, **{key: value for key, value in batch.items() if key not in ("labels", "decisions")})
    logits, rows = model.lm_head(hidden), sample.decisions.nonzero()[:, 0]
    begins, weights = sample.decisions[rows] > 0, sample.decisions[rows].abs()
    if name == "gate":
        targets = [loaded.markup.header[0] if begin else loaded.markup.video for begin in begins]
        each = cross_entropy(logits[rows], torch.tensor(targets), reduction="none")
    else:
        each = binary_cross_entropy_with_logits(
            model.decision_head(hidden[rows])[:, 0], begins.float(), reduction="none"
        )
    words = cross_entropy(logits[:-1], sample.labels[1:], reduction="sum", ignore_index=IGNORED)
    monkeypatch.setattr(model, "loss_way", way)
    with torch.no_grad():
        total = model(**batch, num_items_in_batch=1).loss
        mean = model(**batch).loss
    assert float(total) == pytest.approx(float((words + (weights * each).sum()).detach()), rel=1e-5)
    assert float(mean) == pytest.approx(float(total) / sample.num_learned, rel=1e-5)
    assert len(set(weights.tolist())) == 2


@pytest.mark.parametrize(("variant", "name"), [("interleave", "gate"), ("group", "head")])
def test_p9_packed_samples_have_the_loss_and_gradients_of_the_same_samples_alone(
    load_tiny, timed_clips, variant, name
):
    """One of them a sample of silence, with no label at all."""
    loaded = load_tiny(variant, dtype="float64", schedule=f"{name}:3")
    dataset = clip_dataset(loaded, timed_clips, variant, loaded.settings.schedule, prompts=load_prompts())
    samples = [dataset[0, index].sample for index in (0, 1, 2)]
    total, collate = sum(sample.num_learned for sample in samples), Collator(0, multiple=64)
    alone, want = gradients_of(loaded.model, [collate.batch([sample]) for sample in samples], total)
    together, gradients = gradients_of(loaded.model, [collate.rows([samples[:2], samples[2:]])], total)
    assert together == pytest.approx(alone, rel=1e-5) and gradients.keys() == want.keys()
    assert ("decision_head.weight" in want) == (name == "head")
    for key, gradient in gradients.items():
        scale = max(1e-3, float(want[key].abs().max()))
        torch.testing.assert_close(gradient, want[key], rtol=0, atol=1e-5 * scale)


def test_what_a_dropped_token_decided_the_last_one_that_is_left_of_its_step_decides():
    """Two samples in a row, three tokens of a step each, then a token of the other stream."""
    columns = torch.tensor(
        [
            [0, 0, 0, 0, 0, 0, 0, 1, 1, 1],  # sample
            [0, 0, 0, 0, 0, 0, 1, 0, 0, 0],  # stream
            [0, 1, 2, 3, 4, 5, 0, 0, 1, 2],  # order
            [0] * 10,
            [0, 0, 0, 1, 1, 1, 1, 0, 0, 0],  # step
        ]
    )
    decisions = torch.tensor([0, 0, -0.5, 0, 0, 1, 0, 0, 0, -2.0])
    stays = torch.tensor([1, 1, 0, 1, 0, 1, 1, 0, 0, 0]).bool()
    moved = _moved(decisions[None], columns[None], stays[None])[0]
    assert moved.tolist() == [0, -0.5, 0, 0, 0, 1, 0, 0, 0, 0], "of the last sample nothing is left"


# ---- what is streamed is what is trained ----------------------------------------------------------------------------


def floor_of(model, loaded, stream, text: str) -> float:
    """A floor below which about half of the steps are."""
    _, decided = played(model, opened(Session, loaded, stream, f"{text}:floor=0"), stream)
    chances = sorted(why["not_yet"] for _, _, why in decided)
    return chances[len(chances) // 2]


@pytest.mark.parametrize("variant", STREAMING)
@pytest.mark.parametrize("name", LEARNED)
def test_p1_words_and_decisions_of_a_stream_are_those_of_the_training_sample(load_tiny, variant, name):
    loaded = load_tiny(variant, schedule=f"{name}:2")
    model, stream, end = loaded.model, scenes(loaded), loaded.markup.im_end
    stream.answer[:] = [1, 2, 3, end, 4, end, 5, 6, 7, end, 8, end, 9, 10, end, 11, end]
    floor = floor_of(model, loaded, stream, f"{name}:2")
    session = opened(Saying, loaded, stream, f"{name}:2:floor={floor!r}").tell(stream.answer)
    spoken, decided = played(model, session, stream)
    said = [sum(step == at for step, *_ in spoken) for at in range(9)]
    words = stream.answer[: len(spoken)]
    starts = [number for number in range(len(words)) if number == 0 or words[number - 1] == end]
    plan = Planned(tuple(said), tuple(starts))
    assert 0 in said and len(starts) > 1 and max(said[:-1]) == 2
    sizes = {"suffix_len": len(loaded.markup.suffix), "header_len": len(loaded.markup.header)}
    sizes |= {"t_per_step": model.t_per_step, "schedule": plan, "starts": plan.starts}
    patches = model.markup.announced(Patch(*grid) for grid in stream.merged)
    tokens = layout(variant, len(stream.prompt), patches, len(words), **sizes)
    ids, labels = fill(tokens, loaded.markup, stream.prompt, words)
    inputs = {"input_ids": ids[None], "position_ids": tokens.position_ids[:, None]}
    inputs |= {"attention_mask": tokens.visible()[None, None], "pixel_values_videos": torch.cat(stream.pixels)}
    hidden = hidden_of(model, **inputs, video_grid_thw=torch.cat(stream.grids))
    want = model.lm_head(hidden)[:-1][labels[1:] != IGNORED]
    torch.testing.assert_close(torch.stack(session.seen_logits), want, atol=1e-4, rtol=0)
    assert [step for step, _, _ in decided] == list(range(9)), "at the last step too"
    decisions = decisions_of(tokens, plan, balanced=False)
    rows = decisions.nonzero()[:, 0]
    chances = {step: why["not_yet"] for step, _, why in decided}
    for row in rows.tolist():
        step = int(tokens.step[row])
        assert chances[step] == pytest.approx(model.not_yet(hidden[row]).item(), rel=1e-3)
        assert (chances[step] < floor) == (float(decisions[row]) > 0), "it did what it was told"
    assert len({round(math.log(chance), 4) for chance in chances.values()}) == 9
    assert session.cache.num_fed + session.num_pending == len(tokens)


def test_p4_a_question_is_answered_at_once_and_a_model_that_never_learned_it_is_refused(load_tiny):
    loaded = load_tiny("group", schedule="gate:2")
    stream = scenes(loaded)
    with pytest.raises(UserError, match="trained with gate.* never learned to speak by head.*swwatch train"):
        opened(Session, loaded, stream, "head:2")
    opened(Session, loaded, stream, "gate:7:floor=0.2")
    opened(Session, loaded, stream, "wait-k:2")
    plain = load_tiny("group")
    with pytest.raises(UserError, match="trained with wait-k:3 and never learned to speak by gate"):
        opened(Session, plain, stream, "gate:2")
    with pytest.raises(UserError, match="'batch' cannot speak by gate.*interleave, overlap, group, gap"):
        offline = load_tiny("batch")
        opened(Session, replace(offline), stream, "gate:2")

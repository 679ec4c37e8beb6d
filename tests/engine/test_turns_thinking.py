"""Systems that think segment by segment: equal to a stock forward over the prompt of their release, question by
question; a stream of their own for what is said (`tww`), thoughts as previous text and answers aside (`vst`)."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swwatch.data.turns.prompt import texts_of
from swwatch.engine.requests import drive
from swwatch.engine.source import Ask, Order
from swwatch.engine.trace import Asked, Reflected, Said, Spoken
from swwatch.errors import UserError
from swwatch.model.loading import add_ends
from swwatch.narrate.words import Turn, with_text
from swwatch.rules.cursor import layout, layout_of
from swwatch.rules.schedule import Planned
from swwatch.rules.spans import Part, ids_of
from swwatch.rules.systems import SYSTEMS
from swwatch.toy.checkpoint import make_checkpoint
from tests.helpers.tiny import SIZES, tiny_loader
from tests.helpers.turn_streams import LONG, Scripted, Steps, begin, random_steps, watched

THINKING = [name for name, system in SYSTEMS.items() if system.thinks]
SHORT = {"choose": LONG, "seconds_per_turn": 2}


class Telling(Steps):
    """Tells what is due once so many of its steps have been handed over."""

    def __init__(self, steps, due):
        super().__init__(list(steps))
        self.total, self.due = len(self.steps), due

    def orders(self) -> list:
        now = [order for at, order in self.due if at <= self.total - len(self.steps)]
        self.due = self.due[len(now) :]
        return now


def told(session, steps, asks=(), orders=()) -> list:
    """What a stream tells that is asked (text) or told (order) once so many of its steps are in."""
    due = [*((at, Ask((), text)) for at, text in asks), *orders]
    return list(drive(session.model, session.run(Telling(steps, due))))


def scripted(loaded, count: int, replies=(), **options) -> Scripted:
    """Says two words and the right end each time; `replies`: which of the answers are to questions."""
    session = begin(loaded, Scripted, **SHORT | options)
    return session.tell([[5 + i, 6, session.turns.end(i in replies)] for i in range(count)])


def rows(model, embeds, is_video, where, mask) -> torch.Tensor:
    """(L, V) logits of transformers' own LLM."""
    with torch.no_grad():
        inputs = model.llm_inputs(embeds[None], is_video[None])
        hidden = model.model.language_model(**inputs, position_ids=where[:, None], attention_mask=mask[None, None])
        return model.lm_head(hidden.last_hidden_state[0]).float()


# ---- vst ------------------------------------------------------------------------------------------------------------


def prompt_of(memory: list[str], segment: str, num_video: int, question: str = "") -> str:
    """The release's prompt, in its own words."""
    video = "<|vision_start|>" + "<|video_pad|>" * num_video + "<|vision_end|>"
    text = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    text += (
        "<|im_start|>previous text\n[System]\nYou are a Streaming Video Analyst.\n" + "".join(memory) + "<|im_end|>\n"
    )
    text += f"<|im_start|>user\nTime={segment} {video}<|im_end|>\n"
    return text + (f"<|im_start|>user\n{question}<|im_end|>\n" if question else "") + "<|im_start|>assistant\n"


def test_every_thought_and_answer_of_vst_has_the_logits_of_a_stock_forward_over_the_releases_prompt(load_tiny):
    """Read anew from its text: a question sees the segment that it ends, unthought; later thoughts see no question."""
    loaded = load_tiny("vst")
    model, steps = loaded.model, random_steps(loaded, 5)
    session = scripted(loaded, 4)
    told(session, steps, asks=[(3, "Who is it?")])  # one step into the second segment, which it ends
    videos, word = watched(loaded, steps), loaded.tokenizer.decode
    thoughts = [f"Time={span}s {word([5 + i, 6])}\n" for i, span in ((0, "0.0-2.0"), (2, "2.0-3.0"))]
    prompts = [
        (prompt_of([], "0.0-2.0s", 8), videos[:2], (2, 2, 2)),
        (prompt_of(thoughts[:1], "2.0-3.0s", 4, "Time=3.0s Who is it?"), videos[2:3], (1, 2, 2)),
        (prompt_of(thoughts[:1], "2.0-3.0s", 4), videos[2:3], (1, 2, 2)),
        (prompt_of(thoughts, "3.0-5.0s", 8), videos[3:], (2, 2, 2)),
    ]
    for number, (text, seen, grid) in enumerate(prompts):
        ids = torch.tensor([*loaded.tokenizer.encode(text), 5 + number, 6])
        is_video = ids == model.markup.video
        embeds = model.embed(ids)
        embeds[is_video] = torch.cat(seen)
        where = torch.arange(len(ids)).expand(3, -1).clone()  # by hand: text, a grid of 2 positions a second, text
        start = int(is_video.nonzero()[0])
        t, h, w = (axis.flatten() for axis in torch.meshgrid(*map(torch.arange, grid), indexing="ij"))
        where[:, is_video] = start + torch.stack([2 * t, h, w])
        after = start + len(t)
        where[:, after:] += int(where[:, is_video].max()) + 1 - after
        logits = rows(model, embeds, is_video, where, torch.ones(len(ids), len(ids)).tril().bool())
        ours = torch.stack(session.seen_logits[3 * number : 3 * number + 3])
        torch.testing.assert_close(ours, logits[-3:], atol=1e-4, rtol=0)


def test_vst_keeps_the_first_and_the_last_thoughts_and_forgets_questions(load_tiny):
    loaded = load_tiny("vst")
    lines = [f"Time={2 * i}.0-{2 * i + 2}.0s {loaded.tokenizer.decode([5 + i, 6])}\n" for i in range(5)]
    for keep, left in (("thoughts", lines), ("thoughts:2", lines[3:]), ("thoughts:1:first=2", [*lines[:2], lines[4]])):
        session = scripted(loaded, 6, keep=keep)
        told(session, random_steps(loaded, 11))
        spans = [span for span in session.context if span.part is Part.PREVIOUS and len(span)]
        assert [loaded.tokenizer.decode(span.ids) for span in spans] == left
    session = scripted(loaded, 1, previous="".join(lines[:3]), keep="thoughts:1")
    told(session, random_steps(loaded, 1))
    spans = [span for span in session.context if span.part is Part.PREVIOUS and len(span)]
    assert [loaded.tokenizer.decode(span.ids) for span in spans] == lines[2:3]


# ---- tww ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def load_tww(made_once):
    folder = made_once("tiny_qwen3", lambda path: make_checkpoint(path, family="qwen3_vl", seed=1, **SIZES))
    return tiny_loader(folder)("tww")


@given(st.integers(2, 6), st.lists(st.integers(1, 5), max_size=2), st.integers(0, 9))
@settings(max_examples=5)
def test_notes_and_answers_of_tww_are_those_of_two_streams_with_masks_and_positions_by_hand(load_tww, count, at, seed):
    """What comes in: one axis, plain causal, as if nothing were said. What is said: an axis of its own from 0; it sees
    all of itself and of what had come in when the token that it predicts was chosen."""
    loaded = load_tww
    model, steps = loaded.model, random_steps(loaded, count, seed=seed)
    asks = sorted(step for step in set(at) if step < count)
    session = scripted(loaded, 20, **{"choose": LONG})
    session.script = iter([token for number in range(20) for token in (5 + number, 6, session.turns.end())])
    events = told(session, steps, asks=[(step, "Who?") for step in asks])
    turns = [event for event in events if isinstance(event, Said)]
    assert sum(not turn.thought for turn in turns) == len(asks)
    came, said = [], []  # tokens of either stream, as (id, position (3,), turn), in order
    place, videos = 0, iter(torch.cat(watched(loaded, steps)))
    embeds = {True: [], False: []}
    for span in session.context:
        turn = max(span.round, 0)
        if span.part in (Part.HEADER, Part.ANSWER):
            said += [(token, [len(said) + i] * 3, turn) for i, token in enumerate(span.ids)]
            embeds[True] += list(model.embed(list(span.ids)))
            continue
        if span.part is Part.VIDEO:  # one patch of 2 x 2, behind its time stamp
            assert span.grid == (1, 2, 2)
            came += [
                (model.markup.video, [place, place + row, place + column], turn) for row in (0, 1) for column in (0, 1)
            ]
            embeds[False] += [next(videos) for _ in span.ids]
            place += 2
            continue
        came += [(token, [place + i] * 3, turn) for i, token in enumerate(span.ids)]
        embeds[False] += list(model.embed(list(span.ids)))
        place += len(span)
    n = len(came)
    mask = torch.zeros(n + len(said), n + len(said), dtype=torch.bool)
    mask[:n, :n] = torch.ones(n, n).tril()
    mask[n:, n:] = torch.ones(len(said), len(said)).tril()
    for i in range(len(said)):
        newest = said[min(i + 1, len(said) - 1)][2]
        mask[n + i, :n] = torch.tensor([turn <= newest for _, _, turn in came])
    where = torch.tensor([where for _, where, _ in came + said]).T
    is_video = torch.tensor([token == model.markup.video for token, _, _ in came + said])
    logits = rows(model, torch.stack(embeds[False] + embeds[True]), is_video, where, mask)
    chosen, first = [], 0
    for span in session.context:
        if span.part in (Part.HEADER, Part.ANSWER):
            if span.part is Part.ANSWER:
                chosen += range(n + first - 1, n + first - 1 + len(span))
            first += len(span)
    torch.testing.assert_close(torch.stack(session.seen_logits), logits[chosen], atol=1e-4, rtol=0)


def test_positions_and_mask_of_tww_are_those_of_the_variant_group(load_tww):
    """Its rule laid out by the cursor of the six variants: a segment is a step, and each patch announces itself."""
    loaded = load_tww
    session = scripted(loaded, 3, seconds_per_turn=1)
    told(session, random_steps(loaded, 3))
    spans = session.context
    where, _ = session.policy.place(spans, 0, loaded.model.t_per_step)
    ours = layout_of(spans, where, 0, 0)
    stamp = len(next(span for span in spans if span.part is Part.VISION))
    headers, answer = [len(span) for span in spans if span.part is Part.HEADER], 3
    assert len(set(headers[1:])) == 1 and headers[0] == headers[1] + 3
    theirs = layout(
        "group",
        len(spans[0]),
        [(2, 2, None, stamp, 1)] * 3,
        3 * answer + 2 * headers[1],
        schedule=Planned((answer, headers[1] + answer, headers[1] + answer), ()),
        header_len=headers[0],
        suffix_len=0,
    )
    order = torch.argsort(ours.stream, stable=True)  # a sample of the variants has all that came in first
    assert torch.equal(ours.position_ids[:, order], theirs.position_ids)
    assert torch.equal(ours.visible()[order][:, order], theirs.visible())


@pytest.mark.parametrize("keep", ["sink_window", "recent:3", "thoughts"])
def test_tww_forgets_nothing_and_says_so(load_tww, keep):
    with pytest.raises(UserError, match="tww"):
        begin(load_tww, keep=keep)


# ---- both -----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=THINKING)
def loaded(request, load_tiny, load_tww):
    return load_tww if request.param == "tww" else load_tiny(request.param)


def test_thoughts_and_answers_are_told_apart_in_the_order_of_their_turns(loaded):
    """A question is answered before the thought about the segment that it ends, where that is done aside."""
    session = scripted(loaded, 4, replies=(1,))
    events = told(session, random_steps(loaded, 5), asks=[(3, "Who is it?")])
    turns = [event for event in events if isinstance(event, Said)]
    aside = session.system.aside
    spans = [(0, 2, True), *sorted([(2, 3, True), (3, 3, False)], reverse=aside), (3, 5, True)]
    assert [(turn.start_s, turn.end_s, turn.thought) for turn in turns] == spans
    tokens = [event for event in events if isinstance(event, Spoken | Reflected)]
    assert [isinstance(event, Reflected) for event in tokens] == [thought for *_, thought in spans for _ in range(3)]
    (questions,) = (event for event in events if isinstance(event, Asked))
    assert (questions.step, questions.text) == (3, "Who is it?") and {
        token.newest_visible_step for token in tokens
    } == {
        1,
        2,
        4,
    }
    assert all(token.t_frame_s == token.newest_visible_step + 0.5 for token in tokens), "also of an answer"
    texts = [turn.text for turn in drive(loaded.model, with_text(iter_of(turns), loaded.tokenizer))]
    assert texts == [loaded.tokenizer.decode(turn.ids[:2]).strip() for turn in turns]


def iter_of(events):
    yield from events


def test_a_question_between_segments_and_one_that_the_stream_was_opened_with(loaded):
    """The first is put to what has been watched, the other when the stream is over, in a pause neither."""
    session = scripted(loaded, 9, query="What happened?")
    events = told(session, random_steps(loaded, 4), asks=[(2, "Who is it?"), (2, "And where?")])
    questions = [(event.step, event.text) for event in events if isinstance(event, Asked)]
    assert questions == [(2, "Who is it?"), (2, "And where?"), (4, "What happened?")] and session.query is None
    assert sum(isinstance(event, Said) and not event.thought for event in events) == 2, "what waits is one question"
    session = scripted(loaded, 9, query="What happened?")
    events = told(session, random_steps(loaded, 4), orders=[(1, Order.PAUSE)])
    assert not any(isinstance(event, Asked | Spoken) for event in events)
    assert sum(isinstance(event, Said) and bool(event.words) for event in events) == 2, "thinking goes on"


def test_thoughts_that_are_off_are_none_and_questions_are_answered(loaded):
    session = scripted(loaded, 1, replies=(0,), think="off")
    events = told(session, random_steps(loaded, 5), asks=[(3, "Who is it?")])
    turns = [(event.end_s, event.thought, event.words) for event in events if isinstance(event, Said)]
    middle = sorted([(3, False, (5, 6)), (3, True, ())], reverse=not session.system.aside)
    assert turns == [(2, True, ()), *middle, (5, True, ())]
    assert not any(isinstance(event, Reflected) for event in events)
    with pytest.raises(UserError, match="in chat turns"):
        begin(loaded, think="notes:2")


@pytest.mark.parametrize(("count", "thought"), [(1, True), (4, False)])
def test_stop_acts_between_two_tokens_and_cuts_off_what_is_thought_or_answered(loaded, count, thought):
    """Heard with the first token of a thought, or of an answer: it is told as far as it came, and nothing follows."""
    session, events = scripted(loaded, 9, replies=(1,)), []
    source = Telling(random_steps(loaded, 6), [(2, Ask((), "Who is it?"))])
    for event in drive(loaded.model, session.run(source)):
        events.append(event)
        if sum(isinstance(event, Spoken | Reflected) for event in events) == count:
            source.due = [(0, Order.STOP), *source.due]
    assert sum(isinstance(event, Spoken | Reflected) for event in events) == count and session.stopped
    last = [event for event in events if isinstance(event, Said)][-1]
    assert (last.words, last.thought, last.wrong_end) == ((5 + count // 3,), thought, None)
    assert isinstance(events[-1], Said)


def test_a_wrong_end_stands_as_it_was_said_and_is_told(load_tww):
    session = begin(load_tww, Scripted, **SHORT)
    note, reply, end = session.turns.end(), session.turns.end(True), session.turns.im_end
    session.tell([[5, reply], [6, end], [7, note]])
    turns = [event for event in told(session, random_steps(load_tww, 6)) if isinstance(event, Said)]
    assert [turn.wrong_end for turn in turns] == [reply, end, None] and [turn.words for turn in turns] == [
        (5,),
        (6,),
        (7,),
    ]
    assert [span.ids for span in session.context if span.part is Part.ANSWER] == [(5, reply), (6, end), (7, note)]
    told_turn = next(drive(load_tww.model, with_text(iter_of(turns), load_tww.tokenizer)))
    assert told_turn == Turn(0.0, 2.0, load_tww.tokenizer.decode(5), thought=True, wrong_end="<EOQ>")


def test_the_ends_of_tww_are_ids_of_their_own_and_a_base_model_gets_them(load_tww):
    tokenizer, ends = load_tww.tokenizer, texts_of("tww").ends
    assert ends == ("<EOQ>", "<EOT>"), "in the order of 151669 and 151670, which are free in Qwen3-VL's tokenizer"
    first, second = tokenizer.convert_tokens_to_ids(list(ends))
    assert second == first + 1 == len(tokenizer) - 1
    made = []
    for _ in range(2):  # a model without rows for them
        model = copy.deepcopy(load_tww.model)
        model.resize_token_embeddings(first)
        add_ends(model, tokenizer)
        made.append(model.lm_head.weight)
        assert model.config.text_config.vocab_size == len(made[-1]) == len(tokenizer) == second + 1
    assert torch.equal(*made) and torch.equal(made[0][:first], load_tww.model.lm_head.weight[:first])


def test_a_probe_and_an_answer_leave_a_stream_as_it_was_where_answers_are_aside(loaded):
    """And where they are not an answer stays, a probe does not."""
    ours, theirs = (scripted(loaded, 9) for _ in range(2))
    steps = random_steps(loaded, 6)
    for session in (ours, theirs):
        list(drive(loaded.model, session.advance(steps[:4])))
    logits = []
    for event in drive(loaded.model, probing(ours, "Who is it?", logits)):
        raise AssertionError(event)
    assert logits[0].shape == ours.logits.shape and ours.context == theirs.context
    if ours.system.aside:
        (said,) = (e for e in drive(loaded.model, ours.answer("Who is it?")) if isinstance(e, Said))
        assert said.words == (7, 6) and not said.thought
        next(theirs.script), next(theirs.script), next(theirs.script)
    for session in (ours, theirs):
        list(drive(loaded.model, session.advance(steps[4:])))
    assert ids_of(ours.context) == ids_of(theirs.context)
    torch.testing.assert_close(ours.logits, theirs.logits, atol=1e-5, rtol=0)


def probing(session, question, logits):
    logits.append((yield from session.probe(question, (5,))))

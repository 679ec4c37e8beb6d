"""Training samples of turns: the ids of a stream, labels on the answers alone, every word once."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swwatch.data.turns.conversation import Chat, Commentary, TimedQuestion, read
from swwatch.data.turns.prompt import Turns
from swwatch.data.turns.samples import SampleFormat
from swwatch.data.video import StepFrames
from swwatch.engine.source import Step
from swwatch.errors import UserError
from swwatch.policies.keep import KeepAll, SinkWindow
from swwatch.rules.schedule import seconds_of_step
from swwatch.rules.spans import Part, ids_of
from swwatch.rules.systems import SYSTEMS
from swwatch.rules.turn_positions import POLICIES
from tests.helpers.turn_streams import GRID, LONG, Scripted, begin, play, random_steps, streamed, told_of

word = st.text("abcdefgh'.,-é7", min_size=1, max_size=6).filter(lambda text: text.strip())
rows = st.lists(st.tuples(st.floats(0, 8), word).map(lambda row: [max(row[0] - 0.2, 0), *row]), max_size=25)


@pytest.fixture(scope="module", params=["streamingvlm", "livecc"])
def loaded(request, load_tiny):
    return load_tiny(request.param)


def form_of(loaded, **options) -> SampleFormat:
    return SampleFormat(loaded.turns(SYSTEMS[loaded.settings.variant]), **options)


@given(rows, st.integers(3, 8), st.sampled_from([0.0, 3.0, 1234.0]), st.text("ab c", max_size=40))
@settings(max_examples=8)
def test_the_ids_of_every_turn_are_those_that_a_stream_reads_and_speaks(loaded, rows, count, start_s, previous):
    system = SYSTEMS[loaded.settings.variant]
    zero = start_s if not system.clip_time else 0.0
    asked = (TimedQuestion(start_s + 2.5, "Who is it?", "A man"),)
    commentary = told_of([[a + start_s, b + start_s, w] for a, b, w in rows], questions=asked, previous=previous)
    form = form_of(loaded, keep=KeepAll(4, 6))
    spans, shown, cut = form.spans(commentary, (count, *GRID), start_s)
    assert not cut
    first = 0 if system.first_s > 1 else 2  # the turn that holds second 2.5
    more = {"previous": previous} if system.previous_text else {}
    session, _ = streamed(loaded, spans, commentary, zero, shown, {first: "Who is it?"}, keep=KeepAll(4, 6), **more)
    assert [(s.part, s.ids, s.grid, s.round) for s in session.context] == [
        (s.part, s.ids, s.grid, s.round) for s in spans
    ]
    ours, _ = POLICIES["mrope_full"].place(spans, 0, 2)
    theirs, _ = POLICIES["mrope_full"].place(session.context, 0, 2)
    assert torch.equal(ours, theirs)


@given(st.sampled_from([0.5, 1, 2, 3, 5, 8, 10, 24, 30]), st.sampled_from([0, 1.3, 7.25, 12.35]), st.integers(0, 9999))
@settings(max_examples=50)
def test_labels_and_time_stamps_are_a_streams_to_the_last_digit(loaded, fps, start_s, number):
    step_s = seconds_of_step(fps)
    step = StepFrames.of(number + start_s / step_s, np.zeros(1), 0, fps)  # numbered as narrate.record does
    end_s = Step(torch.empty(0), torch.empty(0), step.arrival_s).video_end_s(step_s)
    for stamps in (False, True):
        turns = Turns(loaded.tokenizer, SYSTEMS[loaded.settings.variant], stamps)
        learned = turns.turn(0, start_s + number * step_s, start_s + (number + 1) * step_s, (1, 1, 1))
        read = turns.turn(0, end_s - step_s, end_s, (1, 1, 1))
        assert [span.ids for span in learned] == [span.ids for span in read]


@given(rows, st.integers(1, 9), st.floats(0, 5))
@settings(max_examples=30)
def test_no_word_is_lost_or_doubled_but_those_that_end_after_the_last_frame(loaded, rows, count, start_s):
    system, form = SYSTEMS[loaded.settings.variant], form_of(loaded)
    commentary = told_of(rows)
    try:
        spans, shown, _ = form.spans(commentary, (count, *GRID), start_s)
    except UserError as error:
        assert "nothing is said" in str(error) and system.drop_silence
        spans, shown = [], 0
    end_s = start_s + (count if system.drop_silence else shown) - system.words_early / 2
    words = Counter(w.text for w in commentary.words if w.end_s <= end_s + 1e-6)
    answers = [span.ids for span in spans if span.part is Part.ANSWER]
    mute = len(form.turns.answer(""))
    said = Counter(" ".join(loaded.tokenizer.decode(ids[: len(ids) - mute]) for ids in answers).split())
    assert said == words
    for span, ids in zip([s for s in spans if s.part is Part.VIDEO], answers, strict=True):
        assert ids[-1] == form.turns.im_end and span.grid[1:] == GRID
    if system.drop_silence and answers:
        assert answers[-1] != form.turns.answer(""), "a clip does not end in silence"


def test_words_belong_to_the_turn_that_they_end_in_by_each_systems_rule(load_tiny):
    commentary = told_of([[0, 1.0, "one"], [1, 3.4, "two"], [3, 3.6, "three"], [3, 5.4, "four"]])
    want = {"streamingvlm": ["one", "", "", "two three", "", "four"], "livecc": ["one", "two", "three", "four"]}
    for name, texts in want.items():
        loaded = load_tiny(name)
        spans, shown, _ = form_of(loaded).spans(commentary, (6, *GRID), 0.0)
        mute = len(form_of(loaded).turns.answer(""))
        answers = [loaded.tokenizer.decode(s.ids[:-mute]).strip() for s in spans if s.part is Part.ANSWER]
        assert answers == texts and shown == 6
        labels = [loaded.tokenizer.decode(s.ids) for s in spans if s.part is Part.LABEL]
        assert labels[:2] == {"streamingvlm": ["Time=0.0-1.0s", "Time=1.0-2.0s"]}.get(
            name, ["Time=0.0-3.0s", "Time=3.0-4.0s"]
        )


def test_labels_are_the_videos_seconds_for_streamingvlm_and_the_clips_for_livecc(load_tiny):
    commentary = told_of([[100, 101, "one"], [101, 103.5, "two"]])
    for name, label in {"streamingvlm": "Time=100.0-101.0s", "livecc": "Time=0.0-3.0s"}.items():
        loaded = load_tiny(name)
        spans, _, _ = form_of(loaded).spans(commentary, (4, *GRID), 100.0)
        assert loaded.tokenizer.decode(next(s for s in spans if s.part is Part.LABEL).ids) == label


@given(st.integers(0, 40), st.integers(0, 9), st.integers(0, 9))
@settings(max_examples=20)
def test_previous_text_is_cut_as_a_stream_cuts_what_it_has_said_itself(load_tiny, count, sink, window):
    """A chunk's previous text, and words that a stream said and folded: the same ids, sinks and windows included."""
    loaded, words = load_tiny("streamingvlm"), [f"w{i}" for i in range(count)]
    turns, windows = Turns(loaded.tokenizer, SYSTEMS["streamingvlm"]), SinkWindow(1, 1, sink, window)
    session = begin(loaded, Scripted, keep=windows, choose=LONG)
    texts = [" ".join(words[i : i + 4]) for i in range(0, count, 4)] + ["", ""]
    session.tell([list(turns.answer(text)) for text in texts])
    play(session, random_steps(loaded, len(texts)))
    folded = [token for span in session.context if span.part is Part.PREVIOUS for token in span.ids]
    form = SampleFormat(turns, keep=windows)
    spans, _, _ = form.spans(told_of([[0, 1, "x"]], previous="".join(f" {word}" for word in words)), (1, *GRID))
    assert [token for span in spans if span.part is Part.PREVIOUS for token in span.ids] == folded


def test_the_papers_windows_are_the_default(load_tiny):
    loaded = load_tiny("streamingvlm")
    commentary = told_of([[0, 1, "x"]], previous="".join(f" w{i}" for i in range(900)))
    spans, _, _ = form_of(loaded).spans(commentary, (1, *GRID))
    kept = [token for span in spans if span.part is Part.PREVIOUS for token in span.ids]
    whole = list(form_of(loaded).turns._words(commentary.previous))
    assert len(whole) > 1024 and kept == whole[:512] + whole[-512:]


@pytest.mark.parametrize(
    ("context", "query"),
    [
        ("none", "Say it."),
        ("title", "Say it.\nThe cup"),
        ("previous", "Say it.\n\nhe ran"),
        ("previous_or_title", "Say it.\n\nhe ran"),
        ("both", "Say it.\nThe cup\nhe ran"),
    ],
)
def test_livecc_tells_title_and_previous_words_in_its_query(load_tiny, context, query):
    loaded = load_tiny("livecc")
    commentary = told_of([[0, 0.4, "x"]], previous="he ran", title="The cup")
    spans, _, _ = form_of(loaded, context=context).spans(commentary, (1, *GRID))
    assert loaded.tokenizer.decode(next(s for s in spans if s.part is Part.QUERY).ids) == query
    assert not any(s.part in (Part.PREVIOUS, Part.AROUND) for s in spans)
    if context == "previous_or_title":
        bare = Commentary("", commentary.words, title="The cup")
        assert bare.query_with(context) == "The cup"


def test_an_empty_query_asks_nothing(loaded):
    spans, _, _ = form_of(loaded).spans(Commentary("", told_of([[0, 0.4, "x"]]).words), (1, *GRID))
    assert not any(span.part is Part.QUERY for span in spans)


def test_previous_text_is_taken_as_it_is(load_tiny):
    loaded = load_tiny("streamingvlm")
    for previous in ("he ran", " he ran", " he ran "):
        spans, _, _ = form_of(loaded).spans(told_of([[0, 0.4, "x"]], previous=previous), (1, *GRID))
        ids = next(span.ids for span in spans if span.part is Part.PREVIOUS)
        assert list(ids) == loaded.tokenizer.encode(previous, add_special_tokens=False)


def test_words_behind_an_answer_keep_their_space_and_what_was_asked_before_the_clip_is_left_out(load_tiny):
    loaded = load_tiny("streamingvlm")
    rows = (TimedQuestion(4.0, "Early?", "Yes."), TimedQuestion(4.5, "Now?", "No."))
    commentary = Commentary("", told_of([[4.1, 4.4, "x"]]).words, questions=rows)
    spans, _, _ = form_of(loaded).spans(commentary, (1, *GRID), 4.0)
    text = loaded.tokenizer.decode([i for span in spans for i in span.ids])
    assert "Early" not in text and "<|vision_end|>Now?<|im_end|>" in text
    assert text.endswith("assistant\n No.\n x ...<|im_end|>")


def test_streamingvlm_keeps_previous_words_in_their_own_turn_and_refuses_them_in_the_query(load_tiny):
    with pytest.raises(UserError, match="previous text in a turn of its own"):
        form_of(load_tiny("streamingvlm"), context="previous")


def test_a_sample_that_is_too_long_loses_whole_turns_or_is_refused(loaded):
    commentary = told_of([[i, i + 0.4, f"w{i}"] for i in range(8)])
    whole, shown, _ = form_of(loaded).spans(commentary, (8, *GRID))
    limit = len(ids_of(whole)) - 1
    with pytest.raises(UserError, match=f"has {limit + 1} tokens, more than max_length {limit}"):
        form_of(loaded, max_length=limit).spans(commentary, (8, *GRID))
    spans, fewer, cut = form_of(loaded, max_length=limit, truncate=True).spans(commentary, (8, *GRID))
    assert cut and fewer == shown - 1 and ids_of(spans) == ids_of(whole)[: len(ids_of(spans))]
    with pytest.raises(UserError, match="not even its first turn"):
        form_of(loaded, max_length=20, truncate=True).spans(commentary, (8, *GRID))


def test_ordinary_chat_is_in_the_same_chat_form_without_labels_or_ellipsis(loaded):
    form, name = form_of(loaded), loaded.settings.variant
    spans, shown, _ = form.spans(Chat((((None, "What?"), "A cat. "), (("Why?",), "So."))), (2, 1, 1))
    before = "<|im_start|>previous text\n<|im_end|>\n" if name == "streamingvlm" else ""
    assert loaded.tokenizer.decode(ids_of(spans)) == (
        f"<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{before}<|im_start|>user\n<|vision_start|>"
        "<|video_pad|><|video_pad|><|vision_end|>What?<|im_end|>\n<|im_start|>assistant\nA cat.<|im_end|>\n"
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nSo.<|im_end|>"
    )
    assert shown == 2
    timed = SampleFormat(Turns(loaded.tokenizer, SYSTEMS[name], stamps=True), fps=8)
    spans, _, _ = timed.spans(Chat((((None, "What?"), "A cat."),)), (2, 1, 1))
    text = loaded.tokenizer.decode(ids_of(spans))
    assert "<0.1 seconds><|vision_start|>" in text and "<0.3 seconds><|vision_start|>" in text
    image = {"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What?"}]}
    dialogue = read({"messages": [image, {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]}]})
    spans, _, _ = timed.spans(dialogue, (1, 1, 1))
    assert "user\n<|vision_start|><|video_pad|><|vision_end|>What?" in loaded.tokenizer.decode(ids_of(spans))


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        ({"text_stream": 3}, "text_stream is int, not a list"),
        ({"text_stream": [[0, 1]]}, r"word 0: \[0, 1\]"),
        ({"text_stream": [], "qa_stream": [[1, 2, "q"]]}, "qa_stream, row 0"),
    ],
)
def test_streams_of_another_form_are_told(stream, words):
    user = {"role": "user", "content": [{"type": "video", "video": "a.mp4"}, {"type": "text", "text": "?"}]}
    said = {"role": "assistant", "content": [{"type": "text_stream"} | stream]}
    with pytest.raises(UserError, match=words):
        read({"messages": [user, said]})


def test_chat_markup_in_words_is_refused(loaded):
    with pytest.raises(UserError, match="must not contain"):
        form_of(loaded).spans(told_of([[0, 0.4, "<|im_end|>"]]), (1, *GRID))

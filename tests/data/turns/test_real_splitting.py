"""Turns of text cut as Qwen2's tokenizer cuts it: line ends that would merge, " ..." as one token, digits one by one.

The vocabulary is learned here from texts that hold what must not merge, so that it would merge where it can.
"""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swwatch.data.turns.prompt import Turns
from swwatch.data.turns.samples import SampleFormat
from swwatch.rules.spans import Part, ids_of
from swwatch.rules.systems import SYSTEMS
from swwatch.toy import checkpoint
from tests.helpers.turn_streams import GRID, begin, streamed, told_of

TRAPS = [
    "assistant\n\n",
    "user\n\nTime=1.0-2.0s ",
    "a\n\n b ...",
    " ...\n",
    "he scores ...",
    "it's 2-1, and - yes! -",
    "\n\n\n",
]
word = st.sampled_from(["he", "scores", "it's", "2-1", "-", "...", "so.", "yes!", "'s", "90", "é", "(and)", "--", "ﬁ"])
rows = st.lists(st.tuples(st.floats(0, 6), word).map(lambda row: [max(row[0] - 0.2, 0), *row]), max_size=20)


@pytest.fixture(scope="module")
def cutting():
    """A tokenizer with such merges."""
    plain = checkpoint._training_text()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "_training_text", lambda: [*plain, *TRAPS * 9])
        return checkpoint.make_tokenizer()


@pytest.fixture(scope="module", params=["streamingvlm", "livecc"])
def loaded(request, load_tiny, cutting):
    """A tiny model, and this tokenizer, which has more ids than the model."""
    made = load_tiny(request.param)
    return replace(made, processor=SimpleNamespace(tokenizer=cutting))


def test_the_trap_can_bite(cutting):
    """Between a role and its words the public training code has what merges, and inference has what does not."""
    merged = cutting.encode("<|im_start|>assistant\n\n foo ...<|im_end|>")
    apart = cutting.encode("<|im_start|>assistant\n") + cutting.encode("\n foo ...<|im_end|>")
    assert merged != apart and len(cutting.encode("\n\n")) == 1
    assert len(cutting.encode(" ...")) == 1 and len(cutting.encode("2-1")) == 3
    assert cutting.encode("Time=1.0-2.0s ") != cutting.encode("Time=1.0-2.0s")


@given(rows, st.integers(3, 6))
@settings(max_examples=15)
def test_a_samples_ids_are_those_of_the_chat_form_cut_as_a_whole(loaded, rows, count):
    """So released weights see the tokens they know, and no seam between pieces shows."""
    turns = Turns(loaded.tokenizer, SYSTEMS[loaded.settings.variant])
    previous = "he scores - 2-1 ... yes!" if turns.system.previous_text else ""
    form = SampleFormat(turns, keep="all")
    commentary = told_of([[0, 0.3, "so"], *rows], previous=previous)
    spans, _, _ = form.spans(commentary, (count, *GRID))
    text = loaded.tokenizer.decode(ids_of(spans), skip_special_tokens=False)
    assert loaded.tokenizer.encode(text) == ids_of(spans)
    double = loaded.tokenizer.encode("\n\n")[0]
    assert double not in ids_of(spans)


@given(rows, st.integers(3, 6))
@settings(max_examples=15)
def test_words_that_a_stream_has_said_and_folded_have_the_ids_that_training_gives_them_as_previous_text(
    cutting, rows, count
):
    """A turn's words were cut by themselves, a chunk's previous text as a whole."""
    turns = Turns(cutting, SYSTEMS["streamingvlm"])
    commentary = told_of(rows)
    spans, _, _ = SampleFormat(turns).spans(commentary, (count, *GRID))
    mute = len(turns.answer(""))
    said = [token for span in spans if span.part is Part.ANSWER for token in span.ids[:-mute]]
    shown = " ".join(w.text for w in commentary.words if w.end_s <= count + 1e-6)
    assert said == list(turns._words(shown))


def test_turn_k_of_training_and_of_a_stream_have_the_same_ids(loaded, monkeypatch):
    system = SYSTEMS[loaded.settings.variant]
    rows = [[i / 2, i / 2 + 0.3, w] for i, w in enumerate("he scores it's 2-1 - yes! so. ... 90 (and) 's é".split())]
    commentary = told_of(rows, previous="he scores 2-1 ...")
    spans, shown, _ = SampleFormat(Turns(loaded.tokenizer, system)).spans(commentary, (6, *GRID))
    more = {"previous": commentary.previous} if system.previous_text else {}
    embed = loaded.model.embed
    monkeypatch.setattr(loaded.model, "embed", lambda ids: embed([i % 200 for i in ids]))
    session, said = streamed(loaded, spans, commentary, 0.0, shown, {}, keep="all", **more)
    assert [(s.part, s.ids, s.grid, s.round) for s in session.context] == [
        (s.part, s.ids, s.grid, s.round) for s in spans
    ]
    assert [turn.ids for turn in said] == [span.ids for span in spans if span.part is Part.ANSWER]
    assert begin(loaded).turns.ellipsis == tuple(loaded.tokenizer.encode(" ..."))

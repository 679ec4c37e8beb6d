"""Dialogues about segments as training samples of systems that think: the ids, positions and logits of a stream."""

import json
import re

import pytest
import torch

from swwatch.data.collator import Collator
from swwatch.data.prompt import IGNORED
from swwatch.data.seek_jsonl import parse_conversation
from swwatch.data.turns.conversation import TimedQuestion, read
from swwatch.data.turns.samples import SampleFormat
from swwatch.errors import UserError
from swwatch.rules import turn_positions as positions
from swwatch.rules.cursor import layout_of
from swwatch.rules.spans import Part, ids_of
from swwatch.rules.systems import SYSTEMS
from tests.engine.test_turns_thinking import THINKING, told
from tests.helpers.conversations import commentary, dataset, write
from tests.helpers.small_clips import write_video
from tests.helpers.turn_streams import GRID, LONG, Scripted, begin, random_steps, told_of, watched

ROWS = [[0, 2, "a red circle"], [2, 3, "it moves left"], [3, 5, "a blue square"]]
TOLD = told_of(ROWS, questions=(TimedQuestion(3.0, "Who is it?", "The circle."),), ends_s=(2.0, 3.0, 5.0))


@pytest.fixture(params=THINKING)
def loaded(request, load_tiny):
    return load_tiny(request.param)


def form_of(loaded, **options) -> SampleFormat:
    return SampleFormat(loaded.turns(SYSTEMS[loaded.settings.variant]), **options)


def streamed(loaded, answers) -> tuple[Scripted, list[list]]:
    """A stream that says these answers, and the contexts as each turn ends."""
    session, contexts = begin(loaded, Scripted, choose=LONG, seconds_per_turn=2).tell(answers), []
    converse = session._converse

    def noting(*args):
        yield from converse(*args)
        contexts.append(list(session.context))

    session._converse = noting
    told(session, random_steps(loaded, 5, (GRID,)), asks=[(3, "Who is it?")])
    return session, contexts


def plain(spans) -> list[tuple]:
    return [(span.part, span.ids, span.grid) for span in spans if len(span)]


def test_a_sample_of_tww_is_a_stream_with_the_same_ids_and_logits(load_tiny):
    loaded = load_tiny("tww")
    form = form_of(loaded)
    spans, shown, cut = form.spans(TOLD, (5, *GRID))
    assert shown == 5 and not cut
    session, _ = streamed(loaded, [list(span.ids) for span in spans if span.part is Part.ANSWER])
    assert plain(spans) == plain(session.context)
    where, _ = positions.of(session.system).place(spans, 0, loaded.model.t_per_step)
    tokens, ids = layout_of(spans, where, 0, 0), torch.tensor(ids_of(spans))
    embeds = loaded.model.embed(ids)
    embeds[ids == loaded.markup.video] = torch.cat(watched(loaded, random_steps(loaded, 5, (GRID,))))
    with torch.no_grad():
        hidden = loaded.model.model.language_model(
            **loaded.model.llm_inputs(embeds[None], (ids == loaded.markup.video)[None]),
            position_ids=where[:, None],
            attention_mask=tokens.visible()[None, None],
        ).last_hidden_state[0]
    said = torch.tensor([span.part in (Part.HEADER, Part.ANSWER) for span in spans for _ in span.ids])
    learned = torch.tensor([span.part is Part.ANSWER for span in spans for _ in span.ids])[said]
    logits = loaded.model.lm_head(hidden)[said][:-1][learned[1:]].float()
    torch.testing.assert_close(torch.stack(session.seen_logits), logits, atol=1e-4, rtol=0)


def test_every_sample_of_vst_is_what_a_stream_reads_for_that_thought_or_answer(load_tiny):
    loaded = load_tiny("vst")
    slices = form_of(loaded).slices(TOLD, (5, *GRID))
    assert [list(place) for _, place in slices] == [[0, 1], [2], [2], [3, 4]], "the segment's patches"
    order = [0, 2, 1, 3]  # a stream answers before it thinks about what it was asked about
    session, contexts = streamed(loaded, [list(slices[i][0][-1].ids) for i in order])
    assert [plain(context) for context in contexts] == [plain(slices[i][0]) for i in order]
    previous = [loaded.tokenizer.decode(s.ids) for s in slices[3][0] if s.part is Part.PREVIOUS and len(s)]
    assert previous == ["Time=0.0-2.0s a red circle\n", "Time=2.0-3.0s it moves left\n"]


def test_labels_are_thoughts_and_answers_and_weigh_what_they_are_to(loaded, tmp_path):
    write_video(tmp_path / "a.mp4", 12, seed=1)
    told = commentary("a.mp4", 0.0, 5.0, ROWS, asked=[[2, 3.0, "Who is it?", "The circle."]])
    system, texts = SYSTEMS[loaded.settings.variant], set()
    clips = dataset(loaded, write(tmp_path / "said.jsonl", [told]), policy=system.positions, thought_weight=0.25)
    most = clips.counter()([clips.records[0]], [clips.measure(clips.records[0])])[0][0]
    for epoch in range(12 if system.aside else 1):
        sample = clips[epoch, 0].sample
        learned = sample.labels != IGNORED
        assert torch.equal(sample.labels[learned], sample.input_ids[learned]) and most >= len(sample.tokens)
        for weight in (0.25, 1.0):
            text = loaded.tokenizer.decode(sample.input_ids[learned & (sample.weights == weight)])
            texts |= {(weight, said) for said in re.split(r"<EOT>|<EOQ>|<\|im_end\|>", text) if said}
    assert texts == {(0.25, row[2]) for row in ROWS} | {(1.0, "The circle.")}
    batch = Collator(0).batch([sample])
    with torch.no_grad():
        weighed, plain, even = (
            loaded.model(**batch | {"weights": weights}, num_items_in_batch=1).loss
            for weights in (batch["weights"], None, torch.ones_like(batch["weights"]))
        )
    torch.testing.assert_close(even, plain, rtol=1e-5, atol=1e-5)
    assert weighed < plain or bool((sample.weights[learned] == 1).all())


def test_a_record_of_think_while_watching_is_read(load_tiny):
    """As its public sample file has it, with a note of the first segment in the form that we add."""
    human = {"from": "human", "timestamps": 3.0, "value": "<video>\nWho is it?"}
    record = {
        "video": "a.mp4",
        "conversations": [
            {"from": "gpt", "timestamps": 2.0, "value": "a red circle"},
            human,
            {"from": "gpt", "value": "The circle."},
        ],
        "metadata": {"segment_info": [{"start": 0.0, "end": 2.0}, {"start": 2.0, "end": 3.0}]},
    }
    commentary = read(parse_conversation(json.dumps(record).encode()))
    assert commentary.ends_s == (2.0, 3.0) and [word.text for word in commentary.words] == ["a red circle"]
    assert commentary.questions == (TimedQuestion(3.0, "Who is it?", "The circle."),)
    spans, shown, _ = form_of(load_tiny("tww")).spans(commentary, (3, *GRID))
    text = load_tiny("tww").tokenizer.decode([t for s in spans if s.part is not Part.VIDEO for t in s.ids])
    assert shown == 3 and text.endswith("Who is it?<EOQ>\n\n[Q THINK]\nReasoning: The circle.<EOQ>")
    assert text.count("[SEG THINK]") == 1, "the second segment has no note, and none is learned of it"
    with pytest.raises(UserError, match="no record of Think-While-Watching"):
        parse_conversation(json.dumps(record | {"metadata": {}}).encode())

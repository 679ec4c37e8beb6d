"""What leaves a stream in turns, when, and what that leaves behind: questions, sizes of pictures, ends of answers."""

import pytest
import torch

from swwatch.engine import keeping
from swwatch.engine.requests import drive
from swwatch.engine.source import Ask
from swwatch.engine.trace import Said
from swwatch.policies.choose import Greedy
from swwatch.policies.keep import Flush, SinkWindow
from swwatch.rules.spans import Part, ids_of
from swwatch.rules.turn_positions import POLICIES
from swwatch.rules.visibility import WATCHED
from tests.helpers.turn_streams import Scripted, Steps, answers, begin, play, random_steps, watched, words_of

SMALL = SinkWindow(3, 3, 4, 6)
LONG = Greedy(1.0, 9)


def test_with_more_layers_the_first_ones_keys_are_those_of_a_fresh_forward_and_later_ones_remember(load_tiny):
    loaded, steps = load_tiny("streamingvlm"), random_steps(load_tiny("streamingvlm"), 9)
    videos = watched(loaded, steps)
    session = begin(loaded, Scripted, keep=SMALL).tell(answers(loaded, 9))
    play(session, steps)
    fresh = begin(loaded, keep=SMALL)
    fresh._seen = dict(enumerate(videos))
    list(drive(loaded.model, fresh._begin_anew(session.context)))
    length = session.cache.get_seq_length()
    ours, theirs = ([layer.stores[WATCHED][0][..., :length, :] for layer in s.cache.layers] for s in (session, fresh))
    torch.testing.assert_close(ours[0], theirs[0], atol=1e-4, rtol=0)
    assert not torch.allclose(ours[1], theirs[1], atol=1e-3)


@pytest.mark.parametrize(
    ("windows", "first"), [(SinkWindow(4, 2, 3, 5), "words"), (SinkWindow(2, 4, 3, 5), "video")], ids=str
)
def test_what_has_the_shorter_window_goes_first(load_tiny, windows, first):
    """A turn loses its video alone, or its label and answer alone, and the rest when both windows have passed."""
    loaded, parts = load_tiny("streamingvlm"), []
    session = begin(loaded, Scripted, keep=windows, choose=LONG).tell([[5, *begin(loaded)._mute]] * 8)
    play(session, random_steps(loaded, 8), lambda s: parts.append([{x.part for x in s.context if x.round == 1}]))
    video, told = {Part.VISION, Part.VIDEO}, {Part.LABEL, Part.HEADER, Part.ANSWER, Part.CLOSE}
    frame = {Part.HEAD, Part.TAIL}
    whole, half = frame | video | told, frame | (told if first == "video" else video)
    held = [seen for (seen,) in parts]
    assert held[1] == whole - {Part.CLOSE} and held[2] == whole
    assert held[3] == held[4] == half and held[5] == held[6] == set()
    assert words_of(session.context)[:3] == [5, 5, 5]


@pytest.mark.parametrize("system", ["streamingvlm", "livecc"])
def test_a_question_in_mid_stream_is_asked_once_in_its_turn_and_outlives_its_video(load_tiny, system):
    loaded = load_tiny(system)
    session = begin(loaded, keep=SMALL if system == "streamingvlm" else Flush(4), query="First")
    source, asked, now = Steps(random_steps(loaded, 14)), [], "Now what"
    for event in drive(loaded.model, session.run(source)):
        if isinstance(event, Said):
            asked.append([(s.round, loaded.tokenizer.decode(s.ids)) for s in session.context if s.part is Part.QUERY])
            if event.round == 4:
                source.told = [Ask((), now)]
    assert asked[4] == [(0, "First")]
    assert all(later == [(0, "First"), (5, now)] for later in asked[5:])
    shown = [span.round for span in session.context if span.part is Part.VIDEO]
    assert 5 not in shown and len(asked) > 10
    where = session.cache.tokens[WATCHED].position_ids
    if system == "streamingvlm":
        expected, _ = POLICIES["mrope_contiguous"].place(session.context, 0, 2)
        assert torch.equal(where, expected[:, : where.shape[1]])
    text = loaded.tokenizer.decode(ids_of(session.context))
    assert f"{now}<|im_end|>\n<|im_start|>" in text


def test_a_turn_ends_early_where_the_pictures_size_changes(load_tiny):
    """In mid-turn, and within the three seconds of LiveCC's first one."""
    for system, more, spans in (
        ("livecc", {}, [(0, 2), (2, 3), (3, 4), (4, 5), (5, 6)]),
        ("streamingvlm", {"seconds_per_turn": 4}, [(0, 2), (2, 5), (5, 6)]),
    ):
        loaded = load_tiny(system)
        steps = random_steps(loaded, 6, ((2, 2), (2, 2), (1, 3), (1, 3), (1, 3), (3, 1)))
        session = begin(loaded, **more)
        assert [(turn.start_s, turn.end_s) for turn in play(session, steps)] == spans
        assert [span.grid[0] for span in session.context if span.part is Part.VIDEO] == [b - a for a, b in spans]


def test_another_end_than_the_chats_own_ends_a_turn_as_that_does(load_tiny):
    loaded = load_tiny("streamingvlm")
    end = loaded.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert end in loaded.model.generation_config.eos_token_id
    session = begin(loaded, Scripted, keep=SMALL).tell([[7, end]] * 8)
    said = play(session, random_steps(loaded, 8))
    assert {turn.ids for turn in said} == {(7, session.turns.im_end)} and {turn.words for turn in said} == {(7,)}
    assert end not in ids_of(session.context)


def test_a_long_text_is_read_anew_in_parts_with_the_same_result(load_tiny, monkeypatch):
    loaded, seen = load_tiny("livecc"), []
    for at_once in (4096, 7):
        monkeypatch.setattr(keeping, "AT_ONCE", at_once)
        session = begin(loaded, Scripted, keep=Flush(4)).tell(answers(loaded, 9))
        play(session, random_steps(loaded, 9))
        seen.append(torch.stack(session.seen_logits))
    torch.testing.assert_close(*seen, atol=1e-4, rtol=0)

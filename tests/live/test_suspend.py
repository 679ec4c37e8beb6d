"""A live session that is put aside on disk goes on in another stage with the words of one that was never disturbed."""

import pytest
import torch

from swwatch.engine.batch import Ended
from swwatch.engine.trace import Reflected, Spoken
from swwatch.errors import UserError
from swwatch.live.stage import Asked, Dropped, Suspended, Watched
from swwatch.narrate.words import Detokenizer
from swwatch.policies.choose import Greedy, Sampling
from swwatch.rules.systems import SYSTEMS
from swwatch.rules.variants import TURNS, VARIANTS
from tests.helpers.live_stages import QUESTION, frames, push_all, read_to_end, read_until, said, stage_of

PICTURES = frames(11)
CHOICES = {"greedy": Greedy(1.15, 9), "drawn": Sampling(seed=5, temperature=1.5, top_k=0, top_p=1.0, max_new_tokens=9)}


def put_aside(session) -> tuple[list, dict]:
    """What it told until then, and its state."""
    session.suspend()
    *events, last = read_until(session, lambda events: isinstance((events or [None])[-1], Suspended))
    assert last.state is not None, last.why
    assert session.ended and session.read(0) == []
    return events, last.state


def through_disk(state: dict, path) -> dict:
    torch.save(state, path)
    return torch.load(path, weights_only=True)


def watched(events) -> int:
    return sum(isinstance(event, Watched) for event in events)


def facts(events) -> list:
    """All but the times."""
    return [*said(events), *((type(e).__name__, e.step) for e in events if isinstance(e, Watched | Asked))]


def often(variant: str) -> dict:
    """Options with which a system that thinks does so every second."""
    return {"seconds_per_turn": 1} if variant in SYSTEMS and SYSTEMS[variant].thinks else {}


@pytest.mark.parametrize("choose", CHOICES.values(), ids=CHOICES)
@pytest.mark.parametrize("variant", [*VARIANTS, *sorted(TURNS)])
def test_it_says_what_an_undisturbed_session_says(load_tiny, tmp_path, variant, choose):
    """Put aside with half a step on display, a question on its way, and a step that nobody has watched."""
    loaded, options = load_tiny(variant), {"question": QUESTION, "choose": choose, "queue_size": 32} | often(variant)
    waits_for = 0 if variant == "livecc" else 2  # its first turn has three seconds
    heard = []
    with stage_of(loaded) as first, stage_of(loaded) as second:
        for is_cut in (False, True):
            session = first.open(**options)
            push_all(session, PICTURES[:4])
            events = read_until(session, lambda events: watched(events) >= waits_for)
            session.ask("And now?")
            if is_cut:
                session.source.hold()
            push_all(session, PICTURES[4:7], start_s=2.0)
            if is_cut:
                before, state = put_aside(session)
                assert len(first) == 0 and state["live"]["queue"]["steps"]
                events, session = events + before, second.open(state=through_disk(state, tmp_path / "s.pt"), **options)
            push_all(session, PICTURES[7:], start_s=3.5)
            session.end()
            more, end = read_to_end(session)
            assert end == Ended() and session.stats().steps_watched == watched(events + more) == 5
            heard.append(facts(events + more))
    assert heard[0] == heard[1] and len(heard[0]) > 12


@pytest.mark.parametrize("kind", [Spoken, Reflected])
def test_a_character_of_which_half_is_said_or_thought_is_whole_afterwards(load_tiny, kind):
    tokenizer = load_tiny("group").tokenizer
    ids = tokenizer.encode(" naïve 東 🙂 ok", add_special_tokens=False)

    def text(wording, ids) -> str:
        return "".join(wording(kind(0, token_id, 0, 0.0, 0.0)).text for token_id in ids)

    assert len(ids) > 8
    for cut in range(len(ids)):
        first, other = Detokenizer(tokenizer), Reflected if kind is Spoken else Spoken
        first(other(0, ids[cut], 0, 0.0, 0.0))  # of the other stream, which is another text
        before = text(first, ids[:cut])
        assert before + text(Detokenizer(tokenizer, first.open_ids), ids[cut:]) == " naïve 東 🙂 ok"
        noted = Detokenizer(tokenizer, first.open_ids)(Reflected(0, ids[0], 0, 0.0, 0.0, begins=True))
        assert noted.text == tokenizer.decode(ids[0]), "nothing is left of a note that was cut off"


def test_a_space_stands_between_two_answers_of_a_narration(load_tiny):
    tokenizer = load_tiny("group").tokenizer
    answer = tokenizer.encode("a cat", add_special_tokens=False)
    ids = [*answer, tokenizer.eos_token_id, *answer, tokenizer.eos_token_id]
    for cut in range(len(ids)):
        first = Detokenizer(tokenizer)
        pieces = [first(Spoken(0, token_id, 0, 0.0, 0.0)).text for token_id in ids[:cut]]
        later = Detokenizer(tokenizer, first.open_ids)
        pieces += [later(Spoken(0, token_id, 0, 0.0, 0.0)).text for token_id in ids[cut:]]
        assert "".join(pieces) == "a cat a cat"


def test_losses_are_told_once_and_the_clock_goes_on(load_tiny):
    loaded, options = load_tiny("group"), {"queue_size": 2, "choose": Greedy(max_new_tokens=4)}
    with stage_of(loaded) as stage:
        session = stage.open(**options)
        session.source.hold()
        push_all(session, PICTURES[:8])
        events, state = put_aside(session)
        assert [event.steps for event in events if isinstance(event, Dropped)] == [2]
        session = stage.open(state=state, **options)
        push_all(session, PICTURES[8:10], start_s=4.0)
        session.end()
        more, _ = read_to_end(session)
    lost = sum(event.steps for event in more if isinstance(event, Dropped))
    assert watched(more) + lost == 3, "the two that were lost before are not told again"
    times = [event.t_s for event in more if isinstance(event, Watched)]
    assert times == sorted(times) and times[0] >= state["live"]["now_s"] > 0


def test_what_cannot_be_put_aside_says_so_and_can_be_stopped(load_tiny):
    with stage_of(load_tiny("group"), engine="streams") as stage:
        session = stage.open()
        push_all(session, PICTURES[:2])
        session.suspend()
        events = read_until(session, lambda events: any(isinstance(event, Suspended) for event in events))
        assert events[-1].state is None and "take serial or fused" in events[-1].why and not session.ended
        session.stop()
        assert read_to_end(session)[1] == Ended()


def test_a_state_of_another_variant_is_refused_and_takes_no_place(load_tiny):
    with stage_of(load_tiny("group")) as stage, stage_of(load_tiny("gap")) as other:
        session = stage.open()
        push_all(session, PICTURES[:2])
        _, state = put_aside(session)
        with pytest.raises(UserError, match="cannot be continued"):
            other.open(state=state)
        assert len(other) == 0

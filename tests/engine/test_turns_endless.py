"""Streams of hours: memory, positions and context stay within their bounds."""

import resource
import sys
from itertools import cycle

import pytest
import torch

from swwatch.data.turns.prompt import Turns
from swwatch.engine.requests import drive
from swwatch.engine.source import Step
from swwatch.engine.trace import Said
from swwatch.engine.turns import TurnSession
from swwatch.model.dummy import DummyModel, DummyTokenizer, ScriptedChooser
from swwatch.model.loading import load
from swwatch.policies.choose import Greedy
from swwatch.policies.keep import KeepAll, SinkWindow
from swwatch.rules.spans import Part, ids_of
from swwatch.rules.systems import SYSTEMS
from swwatch.rules.visibility import WATCHED
from swwatch.toy.checkpoint import make_checkpoint
from tests.helpers.turn_streams import GREEDY, Scripted, begin, random_steps
from tests.helpers.work import Counting, counted

LONG = Greedy(1.0, 9)


class Unending:
    """The same second again and again, so often."""

    def __init__(self, step: Step, seconds: int):
        self.step, self.left = step, iter(range(seconds))
        self.ended = False

    def poll(self) -> Step | None:
        i = next(self.left, None)
        self.ended = i is None
        return None if self.ended else Step(self.step.pixel_values, self.step.grid_thw, i + 0.5)

    def orders(self) -> list:
        return []


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    sizes = {"hidden": 16, "layers": 1, "heads": 1, "kv_heads": 1, "vision_depth": 1, "vision_hidden": 16}
    sizes |= {"vision_heads": 1}
    return load(make_checkpoint(tmp_path_factory.mktemp("s") / "model", **sizes), variant="streamingvlm", device="cpu")


@pytest.mark.parametrize(
    "seconds", [pytest.param(1_000, marks=pytest.mark.slow), pytest.param(10_000, marks=pytest.mark.long)]
)
def test_hours_are_held_in_bounded_memory_and_positions(small, seconds):
    """The system's own windows; frames of 4 tokens and answers of up to 4, which fill them within 400 seconds."""
    session, source = begin(small), Unending(random_steps(small, 1)[0], seconds)
    bound = 1808 + 16 * 4 + 40  # StreamingVLM's own, and the question
    lengths, highest, nbytes, resident = [], [], [], []
    with torch.no_grad():
        for event in drive(small.model, session.run(source)):
            if not isinstance(event, Said):
                continue
            where = session.cache.tokens[WATCHED].position_ids
            lengths.append(session.cache.get_seq_length())
            highest.append(int(where.max()))
            nbytes.append(session.cache.nbytes)
            resident.append(
                resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << (0 if sys.platform == "darwin" else 10)
            )
            assert int(where.min()) == 0
            assert sum(span.part is Part.VIDEO for span in session.context) <= 16
            assert session.num_pending <= len(session._mute)
            stores = [
                part for layer in session.cache.layers for part in (*layer.stores.values(), *layer.first_keys.values())
            ]
            assert {store.shape[-2] for store in stores} == {len(ids_of(session.context)) - session.num_pending}
    assert len(lengths) == seconds
    assert max(lengths) <= bound and max(highest) <= bound
    steady = lengths[seconds // 2 :]
    assert max(steady) - min(steady) <= 16 * (GREEDY.max_new_tokens + 2)  # labels may gain two digits
    assert resident[-1] - resident[seconds // 2] < 16 << 20, "the process does not grow"
    assert {total / length for total, length in zip(nbytes, lengths, strict=True)} == {nbytes[0] / lengths[0]}


def test_positions_and_work_are_the_same_late_as_early_where_windows_slide_and_grow_where_they_do_not(small):
    """Every turn says as much. Work is counted: rows fed, and the keys that they may read."""
    turn = [*range(40, 42), *begin(small)._mute]
    highest, work = {}, {}
    for keep, policy in ((SinkWindow(4, 4, 8, 8), "mrope_contiguous"), (KeepAll(8, 8), "mrope_append")):
        session = begin(small, Scripted, keep=keep, policy=policy, choose=LONG)
        ends, counting = [], Counting()
        run = session.tell([turn] * 80).run(Unending(random_steps(small, 1)[0], 80))
        for event in counted(small.model, run, counting):
            if isinstance(event, Said):
                ends.append((int(session.cache.tokens[WATCHED].position_ids.max()), counting.fed, counting.keys))
                counting.fed = counting.keys = 0
        highest[keep.name], work[keep.name] = [end[0] for end in ends], [end[1:] for end in ends]
    sliding, growing = work["sink_window"], work["all"]
    assert len(set(highest["sink_window"][20:])) == 1, "labels have as many digits from second 11 to 98"
    assert len(set(sliding[20:])) == 1
    assert {rows for rows, _ in growing[20:]} == {sliding[20][0]}, "both feed what is new, and nothing else"
    assert all(a[1] < b[1] for a, b in zip(growing[1:], growing[2:], strict=False))
    assert all(a < b for a, b in zip(highest["all"], highest["all"][1:], strict=False))


@pytest.mark.parametrize(
    ("seconds", "a_turn"),
    [pytest.param(500, 1), pytest.param(10_000, 4, marks=pytest.mark.long)],
)
def test_a_flushed_stream_never_holds_more_than_240_seconds_of_video(seconds, a_turn):
    """LiveCC's own number, on a model without weights, for its text grows; by how much each turn is known."""
    turns = Turns(DummyTokenizer(), SYSTEMS["livecc"])
    model, choose = DummyModel("livecc", t_per_step=1), Greedy(1.0, 3)
    session = TurnSession(model, turns, choose=choose, seconds_per_turn=a_turn)
    session.chooser = ScriptedChooser(session.chooser, 3, (*turns.ellipsis, turns.im_end), cycle([100]))
    grid, first = torch.tensor([[1, 1, 2]]), max(3, a_turn)
    held, texts = [], []
    for event in drive(model, session.run(Unending(Step(torch.zeros(2, 1), grid, 0.5), seconds))):
        if isinstance(event, Said):
            videos = [span for span in session.context if span.part is Part.VIDEO]
            held.append(round(sum(span.end_s - span.start_s for span in videos)))
            unseen = sum(len(span) for span in session.context if span.part in (Part.VISION, Part.VIDEO))
            texts.append(len(ids_of(session.context)) - unseen)
            assert session.cache.get_seq_length() == len(ids_of(session.context)) - session.num_pending
    until = list(range(first, 241, a_turn))
    assert held[: len(until) + 2] == [*until, a_turn, 2 * a_turn], "at 240 s all of it goes"
    assert max(held) == 240 and held.count(240) == seconds // 240
    grown = {after - before for before, after in zip(texts, texts[1:], strict=False)}
    assert min(grown) > 15 and max(grown) - min(grown) <= 8, "all text stays: a turn's own, with up to 4 digits more"

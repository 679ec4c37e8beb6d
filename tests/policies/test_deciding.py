"""Policies of SPEAK that decide while they stream: each rule against its paper, and what holds of them all."""

import math
from functools import partial
from itertools import cycle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swwatch.client.protocol import parse_server
from swwatch.engine.batch import Batch
from swwatch.engine.beside import StreamsSession
from swwatch.engine.fused import FusedSession
from swwatch.engine.requests import Choose, Request, drive, relay
from swwatch.engine.session import Session
from swwatch.engine.source import FileSource, Step
from swwatch.engine.trace import Decided
from swwatch.engine.watcher import ThreadWatcher
from swwatch.errors import UserError
from swwatch.live.messages import Messages
from swwatch.policies.choose import Greedy
from swwatch.policies.speak import SPEAK, parse_schedule
from swwatch.policies.speak.policy import Deciding
from swwatch.rules.cursor import layout
from swwatch.rules.layout import Kind
from swwatch.rules.schedule import Now
from swwatch.rules.variants import VARIANTS, Speaks
from swwatch.train.command import complete
from swwatch.train.settings import TrainSettings
from tests.helpers.feeds import small
from tests.helpers.streams import Paced, SaidAt, Stream, ToldSession, full_forward, plain, random_stream

PARALLEL = [name for name, variant in VARIANTS.items() if variant.speaks is Speaks.PARALLEL]
CHANGES = [
    1.0,
    0.0,
    0.25,
    0.5,
    0.0,
    0.75,
    0.25,
    0.0,
    0.5,
]  # of the cells of each step; the first is compared with none
POLICIES = ["change:2:share=0.4", "sved:2:alpha=1", "pace:2:most=4"]
LEARNED = ["gate:2:floor=0.0025", "head:2:floor=0.26"]  # amid what random weights say of `scenes`
CASES = [(variant, text) for text in POLICIES for variant in PARALLEL] + [("interleave", POLICIES[0])]


class TokenClock:
    """Stream time that stands still but for what the driver says a token takes."""

    now_s = 0.0

    def now(self) -> float:
        return self.now_s

    def arrive(self, at_s: float, timeout_s: float | None = None) -> None:
        self.now_s = max(self.now_s, at_s)


class Saying(ToldSession):
    """Tokens that are given, each in 0.3 s."""

    def _choose(self, may_stop: bool):
        if isinstance(self.clock, TokenClock):
            self.clock.now_s += 0.3
        return (yield from super()._choose(may_stop))


def scenes(loaded, seed=0) -> Stream:
    """Pictures of 2 x 2 tokens, of which the first so many change at every step, as CHANGES says."""
    stream = random_stream(loaded, [(2, 2)] * len(CHANGES), seed=seed)
    generator, pixels = torch.Generator().manual_seed(seed), None
    for number, share in enumerate(CHANGES):
        new = torch.randn(4, 12, 1, loaded.model.config.vision_config.patch_size**2, generator=generator)
        new = new.expand(-1, -1, 2, -1).reshape(4, -1)  # both frames of a step are alike
        changed = (torch.arange(4) < 4 * share)[:, None]
        pixels = new if pixels is None else torch.where(changed, new, pixels)
        stream.pixels[number] = pixels.reshape(16, -1)
    return stream


def model_of(load_tiny, variant: str, text: str):
    """A tiny model, trained to speak so where it must have been."""
    return load_tiny(variant, schedule=text.rpartition(":")[0]) if text in LEARNED else load_tiny(variant)


def source_of(stream: Stream, clock) -> FileSource:
    last = len(stream.pixels) - 1
    steps = [Step(stream.pixels[i], stream.grids[i], i + 0.5, i == last) for i in range(last + 1)]
    return FileSource(steps, lambda step: step, clock)


def played(model, session, stream: Stream, costs=(0.3,)) -> tuple[list[tuple], list[tuple]]:
    """Run a session whose tokens take so many seconds, in turn; its tokens, and its decisions without their time."""
    clock, cost = session.clock, cycle(costs)

    def take_time(request: Request) -> None:
        if isinstance(request, Choose):
            clock.now_s += next(cost)

    events = list(drive(model, relay(session.run(source_of(stream, clock)), on_request=take_time)))
    decided = [(e.step, e.num_tokens, e.why) for e in events if isinstance(e, Decided)]
    return plain(events), decided


def opened(kind, loaded, stream: Stream, text: str, **options) -> Session:
    options = {"choose": Greedy(max_new_tokens=len(stream.answer))} | options
    return kind(loaded.model, stream.prompt, schedule=parse_schedule(text), clock=TokenClock(), **options)


# ---- the rules ------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.sampled_from([0.0, 0.1, 0.34, 1.0]), st.integers(1, 8))
def test_change_speaks_where_a_step_is_among_the_share_of_steps_that_changed_most(quarters, share, steps):
    policy = parse_schedule(f"change:5:share={share}:steps={steps}").begin()
    assert policy.budget(Now(0, 0.5, begins=True)) == 5
    for number, quarter in enumerate(quarters):
        newest = quarters[max(0, number + 1 - steps) : number + 1]
        best = sorted(newest, reverse=True)[: math.ceil(share * len(newest))]  # those that would speak
        stands_out = quarter > 0 and quarter in best and newest.count(quarter) == best.count(quarter)
        got = policy.budget(Now(number + 1, number + 1.5, change=quarter / 4))
        assert got == (5 if stands_out else 0)


@given(st.integers(-20, 40), st.none() | st.integers(1, 20), st.integers(1, 9))
def test_pace_says_as_many_tokens_as_end_before_the_next_step(left, token, most):
    """Times in sixteenths of a second, which floats hold."""
    policy = parse_schedule(f"pace:3:most={most}").begin()
    got = policy.budget(Now(4, 4.5, left_s=left / 16, token_s=token and token / 16))
    ends = [] if token is None else [n for n in range(1, most + 1) if n * token <= left]
    first = min(3, most) if token is None else 1  # one at least, or the first ones, as long as it is not late
    assert got == (0 if left <= 0 else max([first, *ends]))


@pytest.mark.parametrize(
    ("now", "speaks"),
    [(Now(0, 0.5, begins=True), True), (Now(3, 3.5, perplexity=10.3, said_perplexity=10.0), False)]
    + [(Now(3, 3.5, perplexity=10.31, said_perplexity=10.0), True), (Now(3, 3.5), True)]
    + [(Now(3, 3.5, begins=True, perplexity=1.0, said_perplexity=10.0), True)],
)
def test_sved_speaks_where_the_newest_words_fit_less_well_than_when_they_were_said(now, speaks):
    assert parse_schedule("sved").begin().budget(now) == (12 if speaks else 0)


# ---- what is told ---------------------------------------------------------------------------------------------------


def test_the_share_of_change_and_the_clock_are_those_of_the_stream(load_tiny):
    loaded = load_tiny("group")
    stream = scenes(loaded)
    _, decided = played(loaded.model, opened(Session, loaded, stream, "change:1:share=0.4"), stream)
    assert [why["change"] for _, _, why in decided] == [None, *CHANGES[1:-1]]
    assert [tokens for _, tokens, _ in decided] == [1, 0, 1, 1, 0, 1, 0, 0]
    # 0.5 s from arrival: three at once, which take 0.9 s; late at step 1 by none, and so on
    _, decided = played(loaded.model, opened(Session, loaded, stream, "pace:3:most=4"), stream, costs=(0.125, 0.375))
    assert decided[0] == (0, 3, {"left_s": 1.0, "token_s": None})
    assert decided[1] == (1, 4, {"left_s": 1.0, "token_s": 0.625 / 3})
    assert decided[2] == (2, 4, {"left_s": 1.0, "token_s": 0.25}) and len(decided) == 8
    _, decided = played(loaded.model, opened(Session, loaded, stream, "pace:1:most=4"), stream, costs=(2.5,))
    assert [(step, tokens, why["left_s"]) for step, tokens, why in decided[:4]] == [
        (0, 1, 1.0),
        (1, 0, -0.5),
        (2, 1, 0.5),
        (3, 0, -1.0),
    ]


@pytest.mark.parametrize("variant", ["group", "gap"])
def test_a_probe_gives_the_perplexity_of_the_words_in_one_forward_in_which_they_are_said_now(load_tiny, variant):
    """The axis of words is their own in these variants, so that they stand where they stood."""
    loaded = load_tiny(variant)
    stream = scenes(loaded)
    session = opened(ToldSession, loaded, stream, "sved:3:alpha=99").tell(stream.answer)
    decided = [e for e in drive(loaded.model, session.run(Paced(stream))) if isinstance(e, Decided)]
    assert [event.num_tokens for event in decided] == [3, *[0] * 7]
    words = torch.tensor(stream.answer[:3])

    def perplexity(step: int) -> float:
        logits, _ = full_forward(loaded, stream, SaidAt({step: 3}))
        return float(torch.nn.functional.cross_entropy(logits[:3], words).exp())

    for event in decided[1:]:
        assert event.why["said_perplexity"] == pytest.approx(perplexity(0), rel=1e-4)
        assert event.why["perplexity"] == pytest.approx(perplexity(event.step), rel=1e-4)
    assert len({round(event.why["perplexity"], 3) for event in decided[1:]}) > 3
    assert session.num_probed == 3 * 7


def test_a_decision_is_a_message_of_the_live_protocol():
    told = Decided(4, 0, 4.75, {"change": None})
    wire = Messages().message(told).wire()
    got = parse_server(wire)
    assert (got.type, got.step, got.tokens, got.t_s, got.why) == ("decided", 4, 0, 4.75, {"change": None})


# ---- what holds of them all -----------------------------------------------------------------------------------------


def test_every_row_that_decides_is_among_these():
    deciding = {name for name, kind in SPEAK.items() if issubclass(kind, Deciding)}
    assert {text.partition(":")[0] for text in POLICIES + LEARNED} == deciding


@pytest.mark.parametrize(("variant", "text"), CASES)
def test_p1_and_p4_what_is_streamed_is_what_is_trained_for_the_steps_at_which_it_spoke(load_tiny, variant, text):
    """And a probe changes nothing, to the bit."""
    loaded = load_tiny(variant)
    stream = scenes(loaded)
    session = opened(Saying, loaded, stream, text).tell(stream.answer)
    spoken, decided = played(loaded.model, session, stream)
    at = {step: tokens for step, tokens, _ in decided}
    assert 0 in at.values() or "pace" in text
    assert [step for step, *_ in spoken if step < 8] == [step for step, n in at.items() for _ in range(n)][
        : len(spoken)
    ]
    planned = ToldSession(loaded.model, stream.prompt, schedule=SaidAt(at), choose=session.chooser.choose)
    assert plain(drive(loaded.model, planned.tell(stream.answer).run(Paced(stream)))) == spoken
    assert all(map(torch.equal, session.seen_logits, planned.seen_logits))
    logits, tokens = full_forward(loaded, stream, SaidAt(at))
    torch.testing.assert_close(torch.stack(session.seen_logits), logits, atol=1e-4, rtol=0)
    assert session.cache.num_fed == planned.cache.num_fed == len(tokens) - 1
    assert (session.num_probed > 0) == text.startswith("sved")


@pytest.mark.parametrize("variant", PARALLEL)
@pytest.mark.parametrize("text", POLICIES + LEARNED)
def test_p2_and_p9_engines_agree_alone_and_in_a_batch(load_tiny, variant, text):
    loaded = model_of(load_tiny, variant, text)
    stream, how = scenes(loaded), {"choose": Greedy(1.0, 3 if text in LEARNED else 30)}
    theirs = played(loaded.model, opened(Session, loaded, stream, text, **how), stream)
    with ThreadWatcher(loaded.model) as watcher:
        for kind in (FusedSession, partial(StreamsSession, watcher=watcher)):
            ours = played(loaded.model, opened(kind, loaded, stream, text, **how), stream)
            assert ours[0] == theirs[0] and (ours == theirs or text in LEARNED)
            for (*got, why), (*wanted, because) in zip(ours[1], theirs[1], strict=True) if text in LEARNED else ():
                assert got == wanted and why == pytest.approx(because, rel=1e-5), "rows are fed in other company"
    assert text not in LEARNED or 0 < sum(tokens == 0 for _, tokens, _ in theirs[1]) < 9
    if text.startswith("pace") or variant == "gap":  # pace's words go by what else the machine does
        return
    batch, said = Batch(loaded.model), {}
    for number, kind in enumerate((Session, FusedSession, Session)):
        said[number] = []
        batch.add(number, opened(kind, loaded, stream, text, **how).run(Paced(stream, [0, 2, 1] * 3)))
    while len(batch):
        for number, event in batch.advance():
            said[number].append(event)
    for events in said.values():
        assert plain(events) == theirs[0]
        decided = [(e.step, e.num_tokens) for e in events if isinstance(e, Decided)]
        assert decided == [(step, tokens) for step, tokens, _ in theirs[1]]


P3 = [("overlap", POLICIES[0]), ("group", POLICIES[1]), ("group", LEARNED[0]), ("overlap", LEARNED[1])]


@pytest.mark.parametrize(("variant", "text"), P3)
def test_p3_later_frames_change_no_earlier_decision(load_tiny, variant, text):
    loaded, runs = model_of(load_tiny, variant, text), []
    for seed in (None, 7):
        stream = scenes(loaded)
        if seed is not None:
            stream.pixels[5:] = scenes(loaded, seed).pixels[5:]
        runs.append(played(loaded.model, opened(FusedSession, loaded, stream, text), stream))
    (words, decided), (others, otherwise) = runs
    assert decided[:5] == otherwise[:5] and decided != otherwise
    early = [word for word in words if word[0] < 5]
    assert early and early == others[: len(early)]


SILENT = ["change:2", "pace:2", "gate:2:floor=0", "head:2:floor=0"]  # sved keeps all, and is refused with a window


@pytest.mark.parametrize("steps", [60, pytest.param(10_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("text", SILENT)
def test_p12_a_long_silence_keeps_memory_flat(load_tiny, text, steps):
    """Pictures that are alike, by a clock that is always late."""
    learned = parse_schedule(text).learned
    loaded = load_tiny("group", schedule=text.rpartition(":")[0]) if learned else load_tiny("group")
    stream = random_stream(loaded, [(1, 2)])
    sizes, silent, clock = [], 0, TokenClock()
    clock.now_s = 1e6
    source = FileSource(
        (Step(stream.pixels[0], stream.grids[0], i + 0.5) for i in range(steps)), lambda step: step, clock
    )
    session = Session(
        loaded.model, stream.prompt, schedule=parse_schedule(text), clock=clock, keep="window:5", choose=Greedy(1.0, 4)
    )
    for event in drive(loaded.model, session.run(source)):
        if isinstance(event, Decided):
            silent += event.num_tokens == 0
            kept = session.decider.state()["own"].values()
            sizes.append((session.cache.nbytes, session.num_pending, sum(len(part) for part in kept)))
    assert silent >= steps - 2 and session.num_spoken <= 4, "the rest comes when the stream has ended"
    assert sizes[20][:2] == sizes[-2][:2], "what is watched goes, and nothing waits; the end has a suffix"
    assert sizes[-1][2] <= 120, "a policy remembers no more than it says"


def test_where_an_answer_is_over_another_begins_when_words_are_due(load_tiny):
    loaded = load_tiny("group")
    stream = scenes(loaded)
    end, how = loaded.markup.im_end, {"choose": Greedy(1.0, 99, stop_early=True)}
    stream.answer[:] = [1, end, 2, 3, end, 4, 5, 6, 7, 8, 9, end]
    session = opened(Saying, loaded, stream, "change:3:share=0.4", **how).tell(stream.answer)
    spoken, _ = played(loaded.model, session, stream)
    assert [(step, token) for step, token, *_ in spoken if step < 8] == list(
        zip([0, 0, 2, 2, 2, 3, 3, 3, 5, 5, 5], stream.answer, strict=False)
    )
    assert int(session.cache.tokens[1].where(Kind.HEADER).sum()) == 3 * len(loaded.markup.header)


def test_what_cannot_be_done_is_refused(load_tiny, tiny_checkpoint):
    for variant, can in (("interleave", False), ("origin", False), ("overlap", True)):
        loaded = load_tiny(variant)
        stream = scenes(loaded)
        if can:
            opened(Session, loaded, stream, "sved")
        else:
            with pytest.raises(UserError, match=f"'{variant}' cannot speak by sved.*overlap, group, gap"):
                opened(Session, loaded, stream, "sved")
    with pytest.raises(UserError, match="lets words go: keep all"):
        opened(Session, loaded, stream, "sved", keep="window:3")
    fast = small(loaded.model)
    with pytest.raises(UserError, match="CUDA graphs"):
        Session(fast, stream.prompt, schedule=parse_schedule("sved"))
    with pytest.raises(UserError, match="decides while it streams.*wait-k"):
        complete(TrainSettings(variant="group", schedule="pace", model_path=str(tiny_checkpoint)))
    for text in ("change", "pace", "sved"):
        with pytest.raises(UserError, match=f"{text}.* decides while it streams.*wait-k"):
            layout("group", 3, [(1, 1)] * 3, 5, schedule=parse_schedule(text))

"""Group, gap and overlap on streams without end: bounded, exact in one layer, and the same in every engine."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swwatch.engine.choose import open_session
from swwatch.engine.fused import FusedSession
from swwatch.engine.requests import drive
from swwatch.engine.session import Session
from swwatch.engine.source import FileSource, Step
from swwatch.engine.trace import SimulatedClock, Spoken
from swwatch.errors import UserError
from swwatch.model.loading import load
from swwatch.policies.choose import Greedy
from swwatch.policies.keep import Window
from swwatch.policies.speak import RandomK, WaitK
from swwatch.policies.think import Notes
from swwatch.rules.closing_up import lay_out
from swwatch.rules.cursor import layout
from swwatch.rules.layout import Kind, Layout
from swwatch.rules.patch import Patch, Placed
from swwatch.rules.variants import Speaks, get, speaking
from swwatch.rules.visibility import SAID, THOUGHT, WATCHED
from swwatch.toy.checkpoint import make_checkpoint
from tests.helpers.streams import SaidAt, random_stream

PARALLEL = sorted(speaking(Speaks.PARALLEL))
SMALL = Window(vision_s=3, text_sink=2, text_window=5)
sizes = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=12)
schedules = st.one_of(st.builds(WaitK, st.integers(1, 4)), st.builds(RandomK, st.integers(1, 3), st.integers(0, 99)))
windows = st.builds(Window, st.integers(1, 4), st.integers(0, 4), st.integers(1, 6))


def source(stream, pace_s: float, clock) -> FileSource:
    steps = [Step(p, g, pace_s * i) for i, (p, g) in enumerate(zip(stream.pixels, stream.grids, strict=True))]
    return FileSource(steps, lambda step: step, clock)


def run(loaded, stream, kind=Session, *, keep=SMALL, schedule=None, pace_s=0.0, look=None, **options):
    """The spoken tokens, and the session."""
    clock = SimulatedClock(now=lambda: 0.0)  # all that has arrived at a step's own time is there
    options = {
        "choose": Greedy(1.15, None),
        "schedule": schedule or WaitK(3),
        "clock": clock,
    } | options
    session, tokens = kind(loaded.model, stream.prompt, keep=keep, **options), []
    for event in drive(loaded.model, session.run(source(stream, pace_s, clock))):
        if isinstance(event, Spoken):
            if look and (not tokens or tokens[-1].step != event.step):
                look(session, event.step)
            tokens.append(event)
        if len(tokens) > 60:
            break
    return [token.token_id for token in tokens], session


@pytest.fixture(scope="module")
def one_layer(tmp_path_factory):
    """One layer: keys and values do not depend on what a token could see, so forgetting is exact."""
    size = {"hidden": 32, "layers": 1, "heads": 2, "kv_heads": 1, "vision_depth": 1, "vision_hidden": 32}
    folder = make_checkpoint(tmp_path_factory.mktemp("one") / "model", **size)
    return {name: load(folder, variant=name, device="cpu") for name in PARALLEL}


@pytest.mark.parametrize("variant", PARALLEL)
@given(sizes, schedules, windows, st.sampled_from([0.0, 1.0]), st.integers(0, 99))
@settings(max_examples=10)
def test_fused_says_what_serial_says(load_tiny, variant, sizes, schedule, window, pace_s, seed):
    loaded = load_tiny(variant)
    stream = random_stream(loaded, sizes, seed=seed)
    serial, _ = run(loaded, stream, keep=window, schedule=schedule)
    fused, session = run(loaded, stream, FusedSession, keep=window, schedule=schedule, pace_s=pace_s)
    assert fused == serial
    if pace_s == 0 and len(sizes) > 1 and isinstance(schedule, WaitK):
        assert session.num_fused > 0


@pytest.mark.parametrize("variant", PARALLEL)
def test_a_window_that_holds_everything_changes_nothing(load_tiny, variant):
    loaded, stream = load_tiny(variant), random_stream(load_tiny(variant), [(2, 3), (1, 2)] * 3)
    wide = run(loaded, stream, keep=Window(vision_s=6, text_sink=90, text_window=90))[0]
    plain = run(loaded, stream, keep=None)[0]
    assert plain == run(loaded, stream, keep=None)[0]
    assert wide == plain
    assert plain != run(loaded, stream)[0]


@pytest.mark.parametrize("variant", PARALLEL)
@given(sizes, schedules, windows, st.integers(0, 99))
@settings(max_examples=8)
def test_in_one_layer_it_is_as_if_the_rest_had_been_all_there_ever_was(
    one_layer, variant, sizes, schedule, window, seed
):
    loaded = one_layer[variant]
    model, stream = loaded.model, random_stream(loaded, sizes, seed=seed)
    videos = [model.watch_video(p, g) for p, g in zip(stream.pixels, stream.grids, strict=True)]

    class Checked(Session):
        """Compares every prediction with one forward over what is kept, at the positions it is said to have."""

        checked = 0

        def _predict(self, rows, embeds, feeds_left):
            logits = yield from super()._predict(rows, embeds, feeds_left)
            watched, said = self.cache.tokens[WATCHED], self.cache.tokens[SAID]
            ids = self._forgetting.said_ids[: len(said)]
            shown = watched.step[watched.where(Kind.VIDEO)].unique().tolist()
            parts = {Kind.PROMPT: model.embed(stream.prompt), Kind.VIDEO: torch.cat([videos[i] for i in shown])}
            parts |= {Kind.AROUND: model.embed(model.markup.around(shown if model.markup.stamp else []))}
            parts |= {Kind.SUFFIX: model.embed(model.markup.suffix if watched.where(Kind.SUFFIX).any() else [])}
            there = torch.full((len(watched), parts[Kind.VIDEO].shape[1]), torch.nan)
            for kind, part in parts.items():
                there[watched.where(kind)] = part
            everything = Layout.cat([watched, said])
            with torch.no_grad():
                hidden = model.model.language_model(
                    **model.llm_inputs(torch.cat([there, model.embed(ids)])[None], everything.where(Kind.VIDEO)[None]),
                    position_ids=everything.position_ids[:, None],
                    attention_mask=everything.visible()[None, None],
                ).last_hidden_state
                theirs = model.lm_head(hidden[0, -1]).float()
            # at 10,000 the angles of transformers' rotary embedding are rounded to 5e-4: a float32 has no more
            torch.testing.assert_close(logits, theirs, atol=5e-3 if variant == "gap" else 2e-5, rtol=0)
            type(self).checked += 1
            return logits

    tokens, _ = run(loaded, stream, Checked, keep=window, schedule=schedule)
    assert Checked.checked == len(tokens)


@pytest.mark.parametrize("variant", PARALLEL)
def test_what_is_kept_stands_as_a_stream_that_began_with_it(load_tiny, variant):
    """Positions after forgetting are the layout of a shorter stream: the oldest step left is its first."""
    loaded = load_tiny(variant)
    stream = random_stream(loaded, [(2, 3)] * 9, prompt_len=4)
    seen = []

    def look(session, step):
        watched = session.cache.tokens[WATCHED]
        said = [session.cache.tokens[SAID]] if SAID in session.cache.tokens else []
        seen.append((step, watched, Layout.cat([*said, *(rows for _, rows in session.pending)])))

    run(loaded, stream, look=look, keep=Window(3, 0, 3))
    step, watched, said = seen[6]
    assert step == 6 and watched.step.unique().tolist() == [0, 4, 5, 6]  # the prompt counts to step 0
    # header and the last three words, which step 5 said: they are what this shorter stream says at its second step
    patches = loaded.markup.announced([Patch(2, 3)] * 3)
    short = layout(variant, 4, patches, 3, schedule=SaidAt({1: 3}), t_per_step=2)
    there = short[(short.stream == WATCHED) & ~short.where(Kind.SUFFIX)]
    assert torch.equal(watched.position_ids[:, :4], there.position_ids[:, :4])
    if variant != "overlap":  # whose patches begin behind words, the header among them, which was said before
        assert torch.equal(watched.position_ids, there.position_ids)
    axis = said.position_ids[0].tolist()
    if variant == "overlap":
        assert axis[-4:-1] == list(range(axis[-4], axis[-4] + 3))  # and one word of step 6
    else:
        first = get(variant).positions.first
        assert axis == list(range(first, first + len(axis)))


@pytest.mark.parametrize("variant", PARALLEL)
@given(sizes, schedules, st.sampled_from([(0, 0), (7, 1)]), st.booleans())
@settings(max_examples=20)
def test_laying_out_a_whole_stream_anew_gives_the_layout_it_had(variant, sizes, schedule, around, thinks):
    plan = Notes(2).plan(len(sizes), 1.0) if thinks else None
    patches = [Patch(*size, None, *around) for size in sizes]
    whole = layout(variant, 5, patches, 14, schedule=schedule, thoughts=plan)
    watched, *texts = (whole[whole.stream == stream] for stream in (WATCHED, SAID, THOUGHT))
    texts = dict(zip((SAID, THOUGHT), texts, strict=True))
    firsts = [
        watched[watched.where(Kind.VIDEO) & (watched.step == step)].position_ids[:, 0] for step in range(len(sizes))
    ]
    placed = {step: Placed(tuple(first.tolist()), *sizes[step], around[0]) for step, first in enumerate(firsts)}
    again, those, _ = lay_out(get(variant), 2, watched, texts, dict(placed))
    assert torch.equal(again.position_ids, watched.position_ids)
    assert all(torch.equal(those[name].position_ids, text.position_ids) for name, text in texts.items())


@pytest.mark.parametrize("kind", [Session, FusedSession])
@pytest.mark.parametrize("variant", PARALLEL)
def test_a_long_stream_stays_within_its_bounds(load_tiny, variant, kind):
    loaded = load_tiny(variant)
    stream = random_stream(loaded, [(2, 2)], prompt_len=4)
    window, steps = Window(4, 3, 6), 400
    clock = SimulatedClock(now=lambda: 0.0)
    many = FileSource((Step(stream.pixels[0], stream.grids[0], 0.0) for _ in range(steps)), lambda s: s, clock)
    session = kind(
        loaded.model, stream.prompt, keep=window, choose=Greedy(max_new_tokens=None), schedule=WaitK(3), clock=clock
    )
    highest, lengths = [], []
    for event in drive(loaded.model, session.run(many)):
        if isinstance(event, Spoken):
            if event.step == steps - 1:
                break
            tokens = session.cache.tokens
            lengths.append((len(tokens[WATCHED]), len(tokens.get(SAID, []))))
            ends = [int(part.position_ids.max()) for part in tokens.values()]
            highest.append(max(ends) - get(variant).positions.first)
    assert max(watched for watched, _ in lengths) <= 4 + 5 * 4, "four seconds, and the one about to come"
    assert max(said for _, said in lengths) <= 3 + 3 + 6 + 3, "header, sink, window, and the words of this step"
    assert max(highest[600:]) == max(highest[:600]) < 80
    assert len(session._forgetting.said_ids) < 20


def test_questions_stay_in_view(load_tiny):
    from swwatch.engine.source import Ask

    loaded, stream = load_tiny("group"), random_stream(load_tiny("group"), [(1, 2)] * 12)
    clock = SimulatedClock(now=lambda: 0.0)
    file = source(stream, 0.0, clock)
    turn, told = (7, 8, 9, loaded.markup.vision_start), []
    file.orders = lambda: told.pop() if told else []
    session = Session(loaded.model, stream.prompt, keep=SMALL, choose=Greedy(max_new_tokens=None), clock=clock)
    steps = set()
    for event in drive(loaded.model, session.run(file)):
        if isinstance(event, Spoken) and event.step not in steps:
            steps.add(event.step)
            if event.step == 3:
                told.append([Ask(turn, "what now")])
            if event.step == 10:
                break
    watched = session.cache.tokens[WATCHED]
    asked = watched.where(Kind.PROMPT)
    assert int(asked.sum()) == len(stream.prompt) + len(turn)
    assert watched.position_ids[0, asked].tolist() == list(range(len(stream.prompt) + len(turn)))


def test_what_has_no_endless_form_says_so(load_tiny):
    for variant in speaking(Speaks.OFFLINE, Speaks.ALTERNATING):
        with pytest.raises(UserError, match="overlap, group, gap"):
            open_session("serial", load_tiny(variant).model, [1], keep=SMALL)
    with pytest.raises(UserError, match="take serial or fused"):
        open_session("streams", load_tiny("group").model, [1], watcher=object(), keep=SMALL)
    for bad in ((0, 1, 1), (1, -1, 1), (1, 1, 0)):
        with pytest.raises(UserError, match="must be at least"):
            Window(*bad)

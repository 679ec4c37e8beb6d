"""The memories among the policies of KEEP, each against its rule in plain words, and what all of them hold to."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swwatch.engine.fused import FusedSession
from swwatch.engine.session import Session
from swwatch.errors import UserError
from swwatch.policies.choose import Greedy
from swwatch.policies.keep import parse_keep
from swwatch.policies.memory.recent import Recent
from swwatch.policies.speak import RandomK, WaitK
from swwatch.rules.layout import Kind, Layout
from swwatch.rules.spans import Part
from swwatch.rules.variants import Speaks, speaking
from swwatch.rules.visibility import SAID, WATCHED
from tests.helpers.feeds import small
from tests.helpers.streams import Paced, Stream, fed_positions, random_stream, spoken_by
from tests.helpers.turn_streams import Scripted, answers, begin, play, random_steps

PARALLEL = speaking(Speaks.PARALLEL)
CHOOSE = Greedy(1.0, None)
sizes = st.lists(st.sampled_from([(1, 2), (2, 2), (2, 3)]), min_size=2, max_size=8)
schedules = st.one_of(st.builds(WaitK, st.integers(1, 3)), st.builds(RandomK, st.integers(1, 3), st.integers(0, 99)))


class Compared(Session):
    """Compares the logits after the words that a step begins with with those of one forward over what is left."""

    def set(self, stream: Stream):
        self.stream, self.compared = stream, 0
        self.videos = [self.model.watch_video(p, g) for p, g in zip(stream.pixels, stream.grids, strict=True)]
        return self

    def _predict(self, rows, embeds, feeds_left):
        logits = yield from super()._predict(rows, embeds, feeds_left)
        watched, said = self.cache.tokens[WATCHED], self.cache.tokens[SAID]
        shown = watched.step[watched.where(Kind.VIDEO)].unique().tolist()
        parts = [self.model.embed(self.stream.prompt), *(self.videos[step] for step in shown)]
        parts += [self.model.embed(self.markup.suffix)] if bool(watched.where(Kind.SUFFIX).any()) else []
        parts += [self.model.embed(self._forgetting.said_ids[: len(said)])]
        tokens = Layout.cat([watched, said])
        with torch.no_grad():
            theirs = self.model.model.language_model(
                inputs_embeds=torch.cat(parts)[None],
                position_ids=tokens.position_ids[:, None],
                attention_mask=tokens.visible()[None, None],
            ).last_hidden_state
        # at 10,000 the angles of transformers' rotary embedding are rounded to 5e-4: a float32 has no more
        atol = 2e-2 if self.variant.name == "gap" else 1e-4
        torch.testing.assert_close(logits, self.model.lm_head(theirs[0, -1]), atol=atol, rtol=0)
        self.compared += 1
        newest = int(rows.sees[-1])
        assert shown == list(range(max(0, newest - int(self.keep.vision_s) + 1), newest + 1))
        assert int((said.step[~said.where(Kind.HEADER)] < shown[0]).sum()) <= 1, "the one that was not fed yet"
        return logits


@pytest.mark.parametrize("variant", PARALLEL)
@given(sizes, schedules, st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=5)
def test_recent_is_one_forward_over_the_newest_seconds_and_what_was_said_in_them(
    load_tiny, variant, sizes, schedule, seconds, seed
):
    loaded = load_tiny(variant)
    stream = random_stream(loaded, sizes, seed=seed)
    options = {"keep": Recent(seconds), "schedule": schedule, "choose": Greedy(1.0, 25)}
    session = Compared(loaded.model, stream.prompt, **options).set(stream)
    spoken_by(loaded.model, session, Paced(stream))
    assert session.compared > 1


def test_recent_in_chat_turns_shows_the_newest_seconds_and_their_words_alone(load_tiny):
    loaded, seen = load_tiny("streamingvlm"), []
    session = begin(loaded, Scripted, keep="recent:3", query="Now").tell(answers(loaded, 7))
    play(session, random_steps(loaded, 7), lambda s: seen.append({(x.part, x.round) for x in s.context}))
    last = {part: {number for which, number in seen[-1] if which is part} for part in Part}
    assert last[Part.VIDEO] == last[Part.ANSWER] == {4, 5, 6} and last[Part.QUERY] == {0} and not last[Part.PREVIOUS]


BOUNDED = ["recent:3"]


@pytest.mark.parametrize("keep", BOUNDED)
@pytest.mark.parametrize("variant", PARALLEL)
def test_p2_fused_says_what_serial_says_and_a_state_goes_on(load_tiny, variant, keep):
    loaded = load_tiny(variant)
    stream = random_stream(loaded, [(1, 2), (2, 2), (2, 3)] * 3, seed=5)
    serial, fused = (kind(loaded.model, stream.prompt, keep=keep, choose=CHOOSE) for kind in (Session, FusedSession))
    theirs = spoken_by(loaded.model, serial, Paced(stream))
    assert spoken_by(loaded.model, fused, Paced(stream)) == theirs and len(theirs) > 20
    assert fed_positions(fused) == fed_positions(serial)


def test_what_cannot_keep_so_says_what_can(load_tiny):
    loaded = load_tiny("interleave")
    for keep in BOUNDED:
        with pytest.raises(UserError, match="overlap, group, gap"):
            Session(loaded.model, [1], keep=keep)
        with pytest.raises(UserError, match="fast path cannot let go"):
            Session(small(load_tiny("group").model), [1], keep=keep)
        assert str(parse_keep(keep)) == keep

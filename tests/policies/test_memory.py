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
from swwatch.policies.memory.key_norm import KeyNorm
from swwatch.policies.memory.recent import Recent
from swwatch.policies.speak import RandomK, WaitK
from swwatch.rules.layout import Kind, Layout
from swwatch.rules.spans import Part, ids_of
from swwatch.rules.variants import Speaks, speaking
from swwatch.rules.visibility import SAID, WATCHED
from swwatch.toy.checkpoint import make_checkpoint
from tests.helpers.feeds import small
from tests.helpers.streams import Paced, Stream, ToldSession, fed_positions, random_stream, spoken_by
from tests.helpers.tiny import tiny_loader
from tests.helpers.turn_streams import Scripted, answers, begin, play, random_steps

PARALLEL = speaking(Speaks.PARALLEL)
CHOOSE = Greedy(1.0, None)
sizes = st.lists(st.sampled_from([(1, 2), (2, 2), (2, 3)]), min_size=2, max_size=8)
schedules = st.one_of(st.builds(WaitK, st.integers(1, 3)), st.builds(RandomK, st.integers(1, 3), st.integers(0, 99)))


class Compared(Session):
    """Compares every prediction with that of one forward over what is left, where it is said to stand."""

    def set(self, stream: Stream, rule):
        """rule(session, newest): asserts what the plain words of the policy say of what is left."""
        videos = [self.model.watch_video(p, g) for p, g in zip(stream.pixels, stream.grids, strict=True)]
        self.watched = torch.cat([self._embed(stream.prompt), *videos, self._embed(self.markup.suffix)])
        self.rule, self.compared = rule, 0
        return self

    def _predict(self, rows, embeds, feeds_left):
        logits = yield from super()._predict(rows, embeds, feeds_left)
        watched, said = self.cache.tokens[WATCHED], self.cache.tokens[SAID]
        parts = [self.watched[watched.order], self._embed(self._forgetting.said_ids[: len(said)])]
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
        self.rule(self, int(rows.sees[-1]))
        self.compared += 1
        return logits


@pytest.fixture(scope="module")
def one_layer(tmp_path_factory):
    """One layer: keys and values do not depend on what a token could see, so that forgetting is exact."""
    size = {"hidden": 32, "layers": 1, "heads": 4, "kv_heads": 2, "vision_depth": 1, "vision_hidden": 32}
    load = tiny_loader(make_checkpoint(tmp_path_factory.mktemp("one") / "model", **size))
    return {name: load(name) for name in (*PARALLEL, "streamingvlm")}


def steps_in_view(session) -> list[int]:
    watched = session.cache.tokens[WATCHED]
    return watched.step[watched.where(Kind.VIDEO)].unique().tolist()


@pytest.mark.parametrize("variant", PARALLEL)
@given(sizes, schedules, st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=5)
def test_recent_is_one_forward_over_the_newest_seconds_and_what_was_said_in_them(
    load_tiny, variant, sizes, schedule, seconds, seed
):
    loaded = load_tiny(variant)
    stream = random_stream(loaded, sizes, seed=seed)

    def rule(session, newest):
        shown, said = steps_in_view(session), session.cache.tokens[SAID]
        assert shown == list(range(max(0, newest - seconds + 1), newest + 1))
        assert int((said.step[~said.where(Kind.HEADER)] < shown[0]).sum()) <= 1, "the one that was not fed yet"

    options = {"keep": Recent(seconds), "schedule": schedule, "choose": Greedy(1.0, 25)}
    session = Compared(loaded.model, stream.prompt, **options).set(stream, rule)
    spoken_by(loaded.model, session, Paced(stream))
    assert session.compared > 1


def test_recent_in_chat_turns_shows_the_newest_seconds_and_their_words_alone(load_tiny):
    loaded, seen = load_tiny("streamingvlm"), []
    session = begin(loaded, Scripted, keep="recent:3", query="Now").tell(answers(loaded, 7))
    play(session, random_steps(loaded, 7), lambda s: seen.append({(x.part, x.round) for x in s.context}))
    last = {part: {number for which, number in seen[-1] if which is part} for part in Part}
    assert last[Part.VIDEO] == last[Part.ANSWER] == {4, 5, 6} and last[Part.QUERY] == {0} and not last[Part.PREVIOUS]


@given(st.integers(1, 3), st.integers(1, 12), st.integers(1, 8), st.integers(0, 99))
def test_key_norm_takes_the_smallest_keys_of_each_layer(layers, length, count, seed):
    keys = torch.randn(layers, length, 4, generator=torch.Generator().manual_seed(seed))
    for own, chosen in zip(keys, KeyNorm(count).thin(keys), strict=True):
        norms = [sum(x * x for x in key) ** 0.5 for key in own.tolist()]
        smallest = sorted(range(length), key=lambda i, norms=norms: norms[i])[:count]
        assert chosen.tolist() == sorted(smallest)


@pytest.mark.parametrize("variant", PARALLEL)
@given(schedules, st.integers(1, 5), st.integers(1, 3), st.integers(0, 99))
@settings(max_examples=4)
def test_key_norm_in_one_layer_is_one_forward_over_what_is_left(one_layer, variant, schedule, count, group, seed):
    loaded = one_layer[variant]
    stream = random_stream(loaded, [(2, 2), (1, 2), (2, 3)] * 2, seed=seed)
    arrived = [4, 2, 6] * 2

    def rule(session, newest):
        watched = session.cache.tokens[WATCHED]
        done = (newest + 1) // group * group
        thinned = sum(min(count, sum(arrived[i : i + group])) for i in range(0, done, group))
        assert int(watched.where(Kind.VIDEO).sum()) == thinned + sum(arrived[done : newest + 1])

    options = {"keep": KeyNorm(count, group), "schedule": schedule, "choose": Greedy(1.0, 15)}
    session = Compared(loaded.model, stream.prompt, **options).set(stream, rule)
    spoken_by(loaded.model, session, Paced(stream))
    assert session.compared > 1


@pytest.mark.parametrize("variant", PARALLEL)
def test_key_norm_with_room_for_all_is_all_to_the_bit(load_tiny, variant):
    loaded, stream = load_tiny(variant), random_stream(load_tiny(variant), [(1, 2), (2, 2)] * 3)
    logits = []
    for keep in ("all", "key_norm:99:group_s=2"):
        session = ToldSession(loaded.model, stream.prompt, keep=keep, choose=Greedy(1.0, 20)).tell(stream.answer)
        spoken_by(loaded.model, session, Paced(stream))
        logits.append(torch.stack(session.seen_logits))
    assert torch.equal(*logits)


@pytest.mark.parametrize("system", ["streamingvlm", "livecc"])
def test_key_norm_in_chat_turns_leaves_one_run_of_video_a_group(load_tiny, system):
    loaded, seen = load_tiny(system), []
    session = begin(loaded, Scripted, keep="key_norm:3:group_s=2").tell(answers(loaded, 8))

    def look(s):
        seen.append([len(x) for x in s.context if x.part is Part.VIDEO])
        assert s.cache.get_seq_length() == len(ids_of(s.context)) - s.num_pending

    play(session, random_steps(loaded, 7), look)
    if system == "streamingvlm":
        assert seen == [[4], [4, 4], [3, 4], [3, 4, 4], [3, 3, 4], [3, 3, 4, 4], [3, 3, 3, 4]]
    else:  # whose first turn has three seconds
        assert seen == [[12], [3, 4], [3, 4, 4], [3, 3, 4], [3, 3, 4, 4]]


MEMORIES = ["recent:3", "key_norm:3:group_s=2"]


@pytest.mark.parametrize("keep", MEMORIES)
@pytest.mark.parametrize("variant", PARALLEL)
def test_p2_fused_says_what_serial_says(load_tiny, variant, keep):
    loaded = load_tiny(variant)
    stream = random_stream(loaded, [(1, 2), (2, 2), (2, 3)] * 3, seed=5)
    serial, fused = (kind(loaded.model, stream.prompt, keep=keep, choose=CHOOSE) for kind in (Session, FusedSession))
    theirs = spoken_by(loaded.model, serial, Paced(stream))
    assert spoken_by(loaded.model, fused, Paced(stream)) == theirs and len(theirs) > 20
    assert fed_positions(fused) == fed_positions(serial)


def test_what_cannot_keep_so_says_what_can(load_tiny):
    loaded = load_tiny("interleave")
    for keep in MEMORIES:
        with pytest.raises(UserError, match="overlap, group, gap"):
            Session(loaded.model, [1], keep=keep)
        with pytest.raises(UserError, match="fast path cannot let go"):
            Session(small(load_tiny("group").model), [1], keep=keep)
        assert str(parse_keep(keep)) == keep

"""The memories among the policies of KEEP, each against its rule in plain words, and what all of them hold to."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swwatch.engine.requests import drive
from swwatch.engine.session import Session
from swwatch.engine.source import Ask
from swwatch.engine.trace import Asked, Said, Spoken
from swwatch.model.cache import HIDDEN
from swwatch.policies.choose import Greedy
from swwatch.policies.keep import EVICTIONS, WINDOWS, parse_keep, with_numbers
from swwatch.policies.memory.key_norm import KeyNorm
from swwatch.policies.memory.peak_end import PeakEnd
from swwatch.policies.memory.policy import Shown
from swwatch.policies.memory.recent import Recent
from swwatch.policies.memory.rekv import Rekv
from swwatch.policies.speak import RandomK, WaitK
from swwatch.rules.layout import Kind, Layout
from swwatch.rules.spans import Part, ids_of
from swwatch.rules.systems import SYSTEMS
from swwatch.rules.variants import Speaks, speaking
from swwatch.rules.visibility import SAID, WATCHED
from swwatch.toy.checkpoint import make_checkpoint
from tests.helpers.streams import Paced, Stream, asking, logits_under, random_stream, spoken_by
from tests.helpers.tiny import tiny_loader
from tests.helpers.turn_streams import Scripted, Steps, answers, begin, play, random_steps, watched

PARALLEL = speaking(Speaks.PARALLEL)
CHOOSE = Greedy(1.0, None)
sizes = st.lists(st.sampled_from([(1, 2), (2, 2), (2, 3)]), min_size=2, max_size=8)
schedules = st.one_of(st.builds(WaitK, st.integers(1, 3)), st.builds(RandomK, st.integers(1, 3), st.integers(0, 99)))


class Compared(Session):
    """Compares every prediction with that of one forward over what is left, where it is said to stand."""

    def set(self, stream: Stream, rule, asked=()):
        """rule(session, newest): asserts what the policy's plain words say of what is left. asked: step -> ids."""
        self.videos = [self.model.watch_video(p, g) for p, g in zip(stream.pixels, stream.grids, strict=True)]
        parts = [self._embed(stream.prompt)]
        for step, video in enumerate(self.videos):
            parts += [self._embed(asked[step])] if step in asked else []
            parts += [video]
        self.watched = torch.cat([*parts, self._embed(self.markup.suffix)])
        self.rule, self.compared = rule, 0
        return self

    def _predict(self, rows, embeds, feeds_left):
        logits = yield from super()._predict(rows, embeds, feeds_left)
        watched, said = self.cache.tokens[WATCHED], self.cache.tokens[SAID]
        parts = [self.watched[watched.order % HIDDEN], self._embed(self._forgetting.said_ids[: len(said)])]
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
@settings(max_examples=3)
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


def test_a_step_that_is_longer_than_the_window_stays():
    video = [Shown(step, step * 4.0, step * 4.0 + 4) for step in range(3)]
    assert [Recent(seconds).shown(video) for seconds in (1, 5, 8)] == [[2], [2], [1, 2]]


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
@settings(max_examples=2)
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
    loaded = load_tiny(variant)
    assert torch.equal(logits_under(loaded, "all"), logits_under(loaded, "key_norm:99:group_s=2"))


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


@pytest.mark.parametrize("variant", PARALLEL)
@given(schedules, st.integers(1, 3), st.integers(1, 4), st.booleans(), st.integers(0, 99))
@settings(max_examples=2)
def test_rekv_in_one_layer_is_one_forward_over_the_window_and_the_blocks_nearest_to_the_question(
    one_layer, variant, schedule, seconds, count, alike, seed
):
    loaded = one_layer[variant]
    stream = random_stream(loaded, [(2, 2)] * 9 if alike else [(2, 2), (1, 2), (2, 3)] * 3, seed=seed)
    source = Paced(stream, orders=asking(loaded, {5: [3, 4, 5], 8: [6, 7]}))
    question = {5: [*loaded.markup.suffix, 3, 4, 5, loaded.markup.vision_start]}
    question[8] = [*loaded.markup.suffix, 6, 7, loaded.markup.vision_start]
    layer, counts = loaded.model.model.language_model.layers[0], {0: 0, 5: 5, 6: 5, 7: 5, 8: 8}

    def heads(project, embeds):
        return project(layer.input_layernorm(embeds)).detach().unflatten(-1, (-1, 8)).mean(0)

    def rule(session, newest):
        since = max(0, newest - seconds + 1)
        expected = list(range(since, newest + 1))
        if at := counts.get(newest):
            old = range(max(0, at - seconds + 1))
            mean = heads(layer.self_attn.q_proj, session._embed(question[at]))
            keys = [heads(layer.self_attn.k_proj, session.videos[step]) for step in old]
            scores = [sum(float(mean[head] @ key[head // 2]) for head in range(4)) for key in keys]
            expected += sorted(old, key=lambda step: scores[step])[-count:]
        assert steps_in_view(session) == sorted(set(expected))
        assert bool((session.cache.tokens[WATCHED].step.diff() >= 0).all()), "in the order of time"

    options = {"keep": Rekv(count, seconds), "schedule": schedule, "choose": Greedy(1.0, 40)}
    session = Compared(loaded.model, stream.prompt, **options).set(stream, rule, question)
    told = [event for event in drive(loaded.model, session.run(source)) if isinstance(event, Asked)]
    assert session.compared > 5 and [event.step for event in told] == [5, 8]
    if alike:
        one = session.cache.parking.blocks[0].nbytes
        assert [event.num_recalled for event in told] == [4 * min(count, max(0, n - seconds + 1)) for n in (5, 8)]
        assert [event.host_bytes for event in told] == [one * max(0, n - seconds + 1) for n in (5, 8)]


def test_rekv_in_chat_turns_shows_the_blocks_behind_the_beginning_for_one_turn(one_layer):
    """In one layer keys do not depend on what a token could see: a fresh forward has the same."""
    loaded, seen, steps = one_layer["streamingvlm"], [], random_steps(one_layer["streamingvlm"], 9)
    videos = watched(loaded, steps)
    session = begin(loaded, Scripted, keep=Rekv(2, 3.0, text_sink=4, text_window=6)).tell(answers(loaded, 9))
    source = Steps(list(steps))
    for event in drive(loaded.model, session.run(source)):
        if isinstance(event, Said):
            source.told = [Ask((), "Who won")] if event.round in (4, 6) else []
            seen.append([span.round for span in session.context if span.part is Part.VIDEO])
            fresh = begin(loaded, keep=session.keep)
            blocks, turn = session.cache.parking.blocks, event.round
            came = {int(block.tokens.step[0]): videos[int(block.tokens.step[0])] for block in blocks}
            shown = [span for span in session.context if span.part is Part.VIDEO]
            if -1 in seen[-1]:
                keys = session.cache.layers[0].first_keys[WATCHED][0]
                picked = [b for b in blocks if any(torch.equal(b.keys[0], part) for part in _runs_of(keys, 4))]
                order = [int(block.tokens.step[0]) for block in picked]
                fresh_videos = [*(came[step] for step in order), *(videos[s.round] for s in shown if s.round >= 0)]
                rows = torch.cat(fresh_videos)
                list(drive(loaded.model, fresh._read(session.context, rows)))
                held = session.cache.get_seq_length()
                ours, theirs = (s.cache.layers[0].stores[WATCHED][..., :held, :] for s in (session, fresh))
                torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
                expected, _ = session.policy.place(session.context, 0, session.t_step)
                assert torch.equal(session.cache.tokens[WATCHED].position_ids, expected[:, :held])
                assert turn in (5, 7) and len(order) == 2
    assert seen[4] == [2, 3, 4] and seen[5] == [-1, -1, 3, 4, 5] and seen[6] == [4, 5, 6]
    assert seen[7] == [-1, -1, 5, 6, 7] and seen[8] == [6, 7, 8]


@pytest.mark.parametrize("variant", [*PARALLEL, "streamingvlm", "livecc"])
@pytest.mark.parametrize("keep", ["rekv:2:vision_s=2", "livevlm:9:vision_s=2:share=0.5"])
def test_what_a_question_in_mid_stream_finds_of_old_video_is_what_was_watched_to_the_bit(load_tiny, variant, keep):
    """In every layer the values, and the keys where nothing is closed up. Else keys are turned to where they stand."""
    loaded, known, counts, in_turns = load_tiny(variant), {}, {}, variant not in PARALLEL

    def look(session, number: int):
        cache = session.cache
        video = cache.tokens[WATCHED].where(Kind.VIDEO).nonzero()[:, 0]
        fresh = 4 if number or variant != "livecc" else 12  # whose first turn has three seconds
        for layer in cache.layers:
            store = layer.stores[WATCHED][:, 0]
            parts = store[1] if cache.moves else store.flatten(0, 1)
            rows = [parts[:, i].numpy().tobytes() for i in video.tolist()]
            known.setdefault(layer.number, set()).update(rows[-fresh:])
            assert set(rows) <= known[layer.number] and len(set(rows)) == len(rows)
        counts[number] = len(video)

    if in_turns:
        session = begin(loaded, Scripted, keep=keep).tell(answers(loaded, 9))

        def after(s):
            look(s, s.num_rounds - 1)
            s.query = "Who" if s.num_rounds == 5 else None

        play(session, random_steps(loaded, 9), after)
    else:
        stream = random_stream(loaded, [(2, 2)] * 9)
        session = Session(loaded.model, stream.prompt, keep=keep, schedule=WaitK(2), choose=CHOOSE)
        for event in drive(loaded.model, session.run(Paced(stream, orders=asking(loaded, {5: [3, 4, 5]})))):
            if isinstance(event, Spoken):
                look(session, event.step)
    assert counts[5] == counts[4] + (8 if "rekv" in keep else 0) and len(counts) > 6


def _runs_of(keys: torch.Tensor, length: int) -> list[torch.Tensor]:
    return [keys[:, i : i + length] for i in range(keys.shape[1] - length + 1)]


numbers = st.lists(st.one_of(st.none(), st.integers(1, 9).map(float)), min_size=1, max_size=14)


@given(numbers, st.integers(1, 10), st.integers(1, 4))
def test_peak_end_halves_every_event_by_the_surprise_of_its_words(weights, most, group):
    video = [Shown(i, float(i), i + 1.0, weight) for i, weight in enumerate([*weights, None])]
    left = PeakEnd(most, group).shown(video)
    if len(weights) <= most:
        assert left == list(range(len(video)))
        return
    expected = {len(weights)}
    for first in range(0, len(weights), group):
        event = list(range(first, min(first + group, len(weights))))
        stay = -(-len(event) // 2)
        while len(event) > stay:
            # the most surprising one goes, one without words before all others, the later one of two alike
            event.remove(max(event, key=lambda i: (weights[i] is None, weights[i] or 0, i)))
        expected |= set(event)
    assert left == sorted(expected)


@pytest.mark.parametrize("variant", PARALLEL)
def test_peak_end_in_one_layer_is_one_forward_over_what_is_left(one_layer, variant):
    loaded, losses, held = one_layer[variant], {}, []
    stream = random_stream(loaded, [(2, 2), (1, 2)] * 5)

    class Weighed(Compared):
        def _choose(self, may_stop):
            token = yield from super()._choose(may_stop)
            step = self.cursor.num_steps - 1
            losses.setdefault(step, []).append(-float(self.logits.log_softmax(-1)[token]))
            return token

    def rule(session, newest):
        if not held or held[-1][0] != newest:
            weights = {step: sum(x) / len(x) for step, x in losses.items() if step < newest}
            held.append((newest, steps_in_view(session), weights))

    options = {"keep": PeakEnd(4, 3), "schedule": WaitK(2), "choose": Greedy(1.0, 30)}
    session = Weighed(loaded.model, stream.prompt, **options).set(stream, rule)
    spoken_by(loaded.model, session, Paced(stream))
    view = []
    for newest, shown, weights in held:
        video = [Shown(i, float(i), i + 1.0, weights.get(i)) for i in [*view, newest]]
        view = PeakEnd(4, 3).shown(video)
        assert shown == view
    assert len(held) == 10 and len(view) < 8


def test_peak_end_in_chat_turns_lets_go_of_video_alone(load_tiny):
    loaded, seen = load_tiny("streamingvlm"), []
    session = begin(loaded, keep="peak_end:2:group_s=2")
    play(session, random_steps(loaded, 7), lambda s: seen.append([x.round for x in s.context if x.part is Part.VIDEO]))
    for before, after in zip(seen, seen[1:], strict=False):
        assert set(after[:-1]) <= set(before) and after[-1] == before[-1] + 1
    assert seen[:2] == [[0], [0, 1]] and len(seen[-1]) == 4, "one of each two seconds, and the newest one"
    assert [x.round for x in session.context if x.part is Part.ANSWER] == list(range(7))


@pytest.mark.parametrize("name", EVICTIONS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_flags_of_chat_turns_leave_a_memory_its_own_numbers(system, name):
    keep = with_numbers(SYSTEMS[system].keep, name, {"vision_s": 4.0, "flush_s": 9.0})
    assert keep == parse_keep(str(keep)) and keep.name in (name, "all")
    own = parse_keep(keep.name)
    assert all(getattr(keep, x.name) == getattr(own, x.name) for x in keep.options() if x.name not in WINDOWS)
    assert vars(keep).get("vision_s", 4.0) == 4.0 and vars(keep).get("flush_s", 9.0) == 9.0

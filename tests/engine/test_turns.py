"""Streams in turns: equal to one forward while nothing is forgotten, exact in one layer when something was."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swwatch.engine.requests import drive
from swwatch.engine.turns import TurnSession
from swwatch.model.loading import load
from swwatch.policies.keep import Flush, Recompute, Restart, SinkWindow
from swwatch.rules.families import t_step
from swwatch.rules.spans import Part, ids_of
from swwatch.rules.turn_positions import POLICIES
from swwatch.rules.visibility import WATCHED
from swwatch.toy.checkpoint import make_checkpoint
from tests.helpers.turn_streams import (
    GREEDY,
    LONG,
    Scripted,
    answers,
    begin,
    count_feeds,
    forward,
    play,
    random_steps,
    watched,
    words_of,
)

SMALL = SinkWindow(3, 3, 4, 6)


@pytest.fixture(scope="module")
def one_layer(tmp_path_factory):
    """One layer: keys and values do not depend on what a token could see, so forgetting is exact."""
    sizes = {"hidden": 32, "layers": 1, "heads": 2, "kv_heads": 1, "vision_depth": 1, "vision_hidden": 32}
    folder = make_checkpoint(tmp_path_factory.mktemp("one") / "model", **sizes)
    return {name: load(folder, variant=name, device="cpu") for name in ("streamingvlm", "livecc")}


@pytest.fixture(scope="module")
def qwen2(tmp_path_factory):
    sizes = {"hidden": 32, "layers": 2, "heads": 2, "kv_heads": 1, "vision_depth": 1, "vision_hidden": 32}
    folder = make_checkpoint(tmp_path_factory.mktemp("qwen2") / "model", family="qwen2_vl", **sizes)
    return load(folder, variant="livecc", device="cpu")


@pytest.mark.parametrize(
    ("variant", "policy"),
    [
        ("streamingvlm", "mrope_contiguous"),
        ("streamingvlm", "mrope_append"),
        ("livecc", "mrope_full"),
        ("livecc", "livecc_compat"),
        ("livecc", "flat_1d"),
        ("streamingvlm", "flat_contiguous"),
    ],
)
@given(st.integers(3, 7), st.sampled_from([((2, 2),), ((1, 3), (2, 1))]), st.integers(0, 99))
@settings(max_examples=6)
def test_every_turn_has_the_logits_of_one_forward_over_the_whole_conversation(
    load_tiny, variant, policy, count, sizes, seed
):
    loaded = load_tiny(variant)
    sizes = sizes if variant == "streamingvlm" else sizes[:1]  # LiveCC's first turn takes three seconds of one size
    steps = random_steps(loaded, count, sizes, seed)
    session = begin(loaded, Scripted, policy=policy).tell(answers(loaded, count, seed))
    play(session, steps)
    logits = forward(loaded, session.context, policy, watched(loaded, steps))
    said, place = [], 0
    for span in session.context:
        if span.part is Part.ANSWER:
            said += range(place - 1, place - 1 + len(span))
        place += len(span)
    # an <|im_end|> that was put behind a cut answer was not chosen
    chosen = [row for row in said if any(torch.allclose(logits[row], seen, atol=1e-4) for seen in session.seen_logits)]
    assert len(chosen) >= len(session.seen_logits)
    ours, at = [], 0
    for span in session.context:
        if span.part is Part.ANSWER:
            drawn = min(len(span), GREEDY.max_new_tokens)
            ours += said[at : at + drawn]
            at += len(span)
    torch.testing.assert_close(torch.stack(session.seen_logits), logits[ours], atol=1e-4, rtol=0)


def test_livecc_compat_counts_plainly_after_the_first_turn_and_differs_from_the_full_rule(qwen2):
    steps, told = random_steps(qwen2, 6), answers(qwen2, 6)
    seen = {}
    for policy in ("livecc_compat", "mrope_full", "flat_1d"):
        session = begin(qwen2, Scripted, policy=policy).tell(told)
        play(session, steps)
        seen[policy] = torch.stack(session.seen_logits)
        where = session.cache.tokens[WATCHED].position_ids
        expected, _ = POLICIES[policy].place(session.context, 0, t_step(qwen2.model.config))
        assert torch.equal(where, expected[:, : where.shape[1]])
        logits = forward(qwen2, session.context, policy, watched(qwen2, steps))
        torch.testing.assert_close(
            seen[policy][-1], logits[-len(session.context[-1]) - 1 + _last(session)], atol=1e-4, rtol=0
        )
    assert not torch.allclose(seen["livecc_compat"], seen["mrope_full"], atol=1e-5)


def _last(session) -> int:
    """Index, within the last answer, of its last token that was chosen rather than put there."""
    return min(len(session.context[-1]), GREEDY.max_new_tokens) - 1


@pytest.mark.parametrize(
    ("windows", "policy"),
    [
        *((windows, "mrope_contiguous") for windows in (SMALL, SinkWindow(4, 2, 3, 5), SinkWindow(2, 4, 3, 5))),
        (SinkWindow(0, 0, 2, 2), "mrope_contiguous"),
        (SMALL, "flat_contiguous"),
    ],
    ids=str,
)
def test_in_one_layer_forgetting_is_as_if_the_rest_had_been_all_there_ever_was(one_layer, windows, policy):
    loaded, steps = one_layer["streamingvlm"], random_steps(one_layer["streamingvlm"], 12, ((2, 2), (1, 3)))
    videos = watched(loaded, steps)
    session = begin(loaded, Scripted, keep=windows, policy=policy).tell(answers(loaded, 12))
    compared = []

    def look(session):
        held = {span.round for span in session.context if span.part is Part.VIDEO}
        logits = forward(loaded, session.context, policy, [videos[r] for r in sorted(held)])
        row = len(ids_of(session.context)) - len(session.context[-1]) - 1 + _last(session)
        torch.testing.assert_close(session.seen_logits[-1], logits[row], atol=1e-5, rtol=0)
        where = session.cache.tokens[WATCHED].position_ids
        expected, _ = POLICIES[policy].place(session.context, 0, 2)
        assert torch.equal(where, expected[:, : where.shape[1]])
        compared.append(len(held))

    play(session, steps, look)
    assert compared[-1] == max(1, int(windows.vision_s)) and len(compared) == 12


@pytest.mark.parametrize("system", ["streamingvlm", "livecc"])
def test_given_words_stand_as_if_they_had_been_said(one_layer, system):
    """The same contexts, positions and logits as a stream that says them, through forgetting and after it."""
    loaded, keep = one_layer[system], SMALL if system == "streamingvlm" else Flush(5.0)
    steps, ends = random_steps(loaded, 10), []
    words = {3.0: "one two", 5.0: "", 7.0: "three"}
    answer = begin(loaded).turns.answer

    def given(start_s, end_s):
        return words.get(end_s) if end_s < 8 else None

    free = begin(loaded, Scripted, keep=keep, given=given).tell(answers(loaded, 10, seed=3))
    said = play(free, steps, lambda session: ends.append(len(session.seen_logits)))
    spoken = [list(turn.ids) if given(0, turn.end_s) is None else list(answer(words[turn.end_s])) for turn in said]
    same = begin(loaded, Scripted, keep=keep, choose=LONG).tell(spoken)
    play(same, steps)
    assert [(s.part, s.ids, s.round) for s in free.context] == [(s.part, s.ids, s.round) for s in same.context]
    ours, theirs = (session.cache.tokens[WATCHED].position_ids for session in (free, same))
    fed = min(ours.shape[1], theirs.shape[1])  # an <|im_end|> behind a cut answer waits for the next turn
    assert torch.equal(ours[:, :fed], theirs[:, :fed])
    torch.testing.assert_close(free.seen_logits[ends[-2]], same.seen_logits[-len(spoken[-1])], atol=1e-5, rtol=0)


def test_what_is_kept_after_every_turn(load_tiny):
    loaded = load_tiny("streamingvlm")
    told = answers(loaded, 14)
    session = begin(loaded, Scripted, keep=SMALL, query="What now").tell(told)
    end, mute, number = session.turns.im_end, session._mute, iter(range(99))
    system = session.context[0]

    def look(session):
        i = next(number)
        rounds = sorted({span.round for span in session.context if span.part is Part.VIDEO})
        assert rounds == list(range(max(0, i - 2), i + 1))
        older = [token for answer in told[: max(0, i - 2)] for token in _words(answer, mute, end)]
        kept = older if len(older) <= 10 else older[:4] + older[-6:]
        assert words_of(session.context) == kept
        assert session.context[0] == system
        assert [span.round for span in session.context if span.part is Part.QUERY] == [0], "the question is pinned"
        ids = ids_of(session.context)
        starts, ends = (ids.count(loaded.tokenizer.convert_tokens_to_ids(t)) for t in ("<|im_start|>", "<|im_end|>"))
        assert starts == ends, "every turn that is open is closed"
        answered, closed = ([s.round for s in session.context if s.part is p] for p in (Part.ANSWER, Part.CLOSE))
        assert closed == answered[:-1], "a line end between an answer and the next turn, and nowhere else"
        assert session.cache.get_seq_length() == len(ids) - session.num_pending

    play(session, random_steps(loaded, 14), look)


def _words(answer, mute, end) -> list[int]:
    """What is left of an answer's ids without " ..." and the end."""
    answer = [*answer] if answer[-1] == end else [*answer, end]
    return answer[: -len(mute)] if tuple(answer[-len(mute) :]) == tuple(mute) else answer[:-1]


def test_append_keeps_the_same_members_at_positions_that_only_grow_and_equals_contiguous_until_something_goes(
    load_tiny,
):
    loaded, steps = load_tiny("streamingvlm"), random_steps(load_tiny("streamingvlm"), 8)
    told, seen, where, members = answers(loaded, 8), {}, {}, {}
    for policy in ("mrope_append", "mrope_contiguous"):
        session = begin(loaded, Scripted, keep=SMALL, policy=policy).tell(told)
        marks, where[policy], members[policy] = [], [], []

        def look(s, marks=marks, where=where[policy], members=members[policy]):
            marks.append(len(s.seen_logits))
            where.append(s.cache.tokens[WATCHED].position_ids)
            members.append(ids_of(s.context))

        play(session, steps, look)
        seen[policy] = session.seen_logits
    assert members["mrope_append"] == members["mrope_contiguous"]
    same = marks[2]  # three seconds fit
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*(s[:same] for s in seen.values()), strict=True))
    assert not torch.allclose(seen["mrope_append"][-1], seen["mrope_contiguous"][-1], atol=1e-5)
    # what is new stands behind all that ever was, also what is gone by now
    ends = [int(positions.max()) for positions in where["mrope_append"]]
    assert all(a < b for a, b in zip(ends, ends[1:], strict=False)) and ends[-1] > 2 * ends[2]
    assert ends[-1] > where["mrope_contiguous"][-1].max()
    session = begin(loaded, keep="all")
    play(session, steps)
    assert sum(span.part is Part.VIDEO for span in session.context) == 8


def test_recompute_is_a_fresh_forward_over_the_window_at_every_turn(load_tiny):
    loaded, steps = load_tiny("streamingvlm"), random_steps(load_tiny("streamingvlm"), 9)
    videos = watched(loaded, steps)
    session = begin(loaded, Scripted, keep=Recompute(3, 3, 4, 6)).tell(answers(loaded, 9))

    def look(session):
        held = sorted({span.round for span in session.context if span.part is Part.VIDEO})
        logits = forward(loaded, session.context, "mrope_contiguous", [videos[r] for r in held])
        row = len(ids_of(session.context)) - len(session.context[-1]) - 1 + _last(session)
        torch.testing.assert_close(session.seen_logits[-1], logits[row], atol=1e-4, rtol=0)

    play(session, steps, look)


def test_a_window_without_overlap_holds_its_seconds_and_then_begins_anew(load_tiny):
    loaded, rounds = load_tiny("streamingvlm"), []
    session = begin(loaded, keep=Restart(3.0))
    play(
        session,
        random_steps(loaded, 8),
        lambda s: rounds.append([span.round for span in s.context if span.part is Part.VIDEO]),
    )
    assert rounds == [[0], [0, 1], [0, 1, 2], [3], [3, 4], [3, 4, 5], [6], [6, 7]]


def test_a_flush_drops_all_video_keeps_all_text_and_reads_it_anew(load_tiny):
    loaded = load_tiny("livecc")
    session = begin(loaded, keep=Flush(5.0))
    texts, videos = [], []

    def look(session):
        texts.append([ids_of([s]) for s in session.context if s.part not in (Part.VISION, Part.VIDEO)])
        videos.append(sum(s.end_s - s.start_s for s in session.context if s.part is Part.VIDEO))
        assert session.cache.get_seq_length() == len(ids_of(session.context)) - session.num_pending

    said = play(session, random_steps(loaded, 15), look)
    assert max(videos) == 5.0 and videos[3:5] == [1.0, 2.0]
    for before, after in zip(texts, texts[1:], strict=False):
        assert after[: len(before)] == before
    assert len(said) == 13


def test_livecc_takes_three_seconds_first_and_labels_what_it_takes(load_tiny):
    loaded = load_tiny("livecc")
    session = begin(loaded)
    said = play(session, random_steps(loaded, 6))
    assert [(turn.start_s, turn.end_s) for turn in said] == [(0, 3), (3, 4), (4, 5), (5, 6)]
    text = loaded.tokenizer.decode(ids_of(session.context))
    assert "Time=0.0-3.0s" in text and "Time=5.0-6.0s" in text
    assert [span.grid[0] for span in session.context if span.part is Part.VIDEO] == [3, 1, 1, 1]


def test_a_stream_that_ends_early_still_has_its_turn(load_tiny):
    said = play(begin(load_tiny("livecc")), random_steps(load_tiny("livecc"), 2))
    assert [(turn.start_s, turn.end_s) for turn in said] == [(0, 2)]


def test_every_token_is_fed_once_and_the_cache_holds_what_was_fed(load_tiny):
    from tests.helpers.turn_streams import Steps

    for name in ("streamingvlm", "livecc"):
        loaded = load_tiny(name)
        session = begin(loaded)
        fed, _ = count_feeds(loaded.model, session.run(Steps(random_steps(loaded, 6))))
        assert fed == len(ids_of(session.context)) - session.num_pending == session.cache.get_seq_length()


def test_two_streams_on_one_model_do_not_disturb_each_other(load_tiny):
    from tests.helpers.turn_streams import Steps

    for name in ("streamingvlm", "livecc"):
        loaded = load_tiny(name)
        streams = [random_steps(loaded, 6, seed=seed) for seed in (1, 2)]
        alone = [play(begin(loaded, keep=SMALL), steps) for steps in streams]
        both = [begin(loaded, keep=SMALL) for _ in streams]
        runs = [drive(loaded.model, s.run(Steps(list(steps)))) for s, steps in zip(both, streams, strict=True)]
        mixed, open_runs = [[], []], {0, 1}
        while open_runs:
            for i in list(open_runs):
                event = next(runs[i], None)
                if event is None:
                    open_runs.discard(i)
                elif hasattr(event, "words"):
                    mixed[i].append(event.ids)
        assert mixed == [[turn.ids for turn in said] for said in alone]


def test_interleaved_streams_have_the_logits_of_streams_alone_to_the_bit(load_tiny):
    from tests.helpers.turn_streams import Steps

    for name in ("streamingvlm", "livecc"):
        loaded = load_tiny(name)
        made = [random_steps(loaded, 6, seed=seed) for seed in (1, 2)]

        def fresh(loaded=loaded):
            return [begin(loaded, Scripted, keep=SMALL).tell(answers(loaded, 6, seed)) for seed in (1, 2)]

        alone, both = fresh(), fresh()
        for session, steps in zip(alone, made, strict=True):
            play(session, steps)
        runs = [drive(loaded.model, s.run(Steps(list(steps)))) for s, steps in zip(both, made, strict=True)]
        while runs:  # a token of one, a token of the other
            runs = [run for run in runs if next(run, None) is not None]
        for ours, theirs in zip(both, alone, strict=True):
            assert len(ours.seen_logits) == len(theirs.seen_logits) > 6
            assert all(map(torch.equal, ours.seen_logits, theirs.seen_logits))


def test_a_saved_stream_goes_on_as_if_it_had_never_stopped(load_tiny, tmp_path):
    loaded, steps = load_tiny("streamingvlm"), random_steps(load_tiny("streamingvlm"), 10)
    whole = [turn.ids for turn in play(begin(loaded, keep=SMALL), steps)]
    first, second = begin(loaded, keep=SMALL), begin(loaded, keep=SMALL)
    before = [turn.ids for turn in play(first, steps[:6])]
    torch.save(first.state(), tmp_path / "state.pt")
    play(first, steps[6:])  # the saved state is not touched by going on
    second.restore(torch.load(tmp_path / "state.pt", weights_only=False))
    assert before + [turn.ids for turn in play(second, steps[6:])] == whole


def test_a_question_about_what_was_watched_needs_no_second_look(load_tiny):
    for name in ("streamingvlm", "livecc"):
        loaded = load_tiny(name)
        session = begin(loaded)
        play(session, random_steps(loaded, 4))
        length, number = session.cache.get_seq_length(), session.num_rounds
        looks = loaded.model.watch_video
        loaded.model.watch_video = None  # nothing is looked at: calling it would fail
        try:
            fed, events = count_feeds(loaded.model, session.answer("What was red", max_new_tokens=5))
        finally:
            loaded.model.watch_video = looks
        assert session.cache.get_seq_length() == length + fed and 0 < len(events) - 1 <= 5
        assert sum(span.part is Part.VIDEO for span in session.context if span.round == number) == 0
        assert sum(span.part is Part.QUERY for span in session.context if span.round == number) == 1


def test_turns_of_two_seconds_keep_as_many_seconds(load_tiny):
    loaded = load_tiny("streamingvlm")
    session = begin(loaded, keep=SinkWindow(4, 4, 4, 4), seconds_per_turn=2)
    held = []
    play(
        session, random_steps(loaded, 12), lambda s: held.append([x.end_s for x in s.context if x.part is Part.VIDEO])
    )
    assert held[-1] == [10.0, 12.0]


@pytest.mark.parametrize("keep", ["all", SMALL, Recompute(3, 3, 4, 6), "restart:3"], ids=str)
def test_the_modes_of_the_comparison_all_run(load_tiny, keep):
    loaded = load_tiny("streamingvlm")
    said = play(begin(loaded, TurnSession, keep=keep, query="Go"), random_steps(loaded, 8))
    assert len(said) == 8

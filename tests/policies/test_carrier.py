"""VideoScan's carriers, against the rule in plain words: what each has read, which of them stay, who sees them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swwatch.data.prompt import fill
from swwatch.engine.requests import drive
from swwatch.policies.choose import Greedy
from swwatch.policies.memory.carrier import Carrier
from swwatch.policies.memory.policy import Shown
from swwatch.policies.speak import WaitK
from swwatch.rules.cursor import layout
from swwatch.rules.layout import Kind, Layout
from swwatch.rules.spans import Part, ids_of
from swwatch.rules.variants import Speaks, speaking
from swwatch.rules.visibility import CARRIER, SAID, WATCHED
from tests.helpers.streams import Paced, ToldSession, random_stream, spoken_by
from tests.helpers.turn_streams import Scripted, answers, begin, play, random_steps, watched


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(-9, 9)), min_size=1, max_size=12), st.integers(1, 6))
def test_of_the_two_neighbours_most_alike_the_earlier_one_goes(features, most):
    def alike(one, other):
        return float(torch.cosine_similarity(torch.tensor(one).float(), torch.tensor(other).float(), dim=0))

    left = list(range(len(features)))
    while len(left) > most:
        scores = [alike(features[a], features[b]) for a, b in zip(left, left[1:], strict=False)] or [0]
        left.remove(min(left, key=lambda i: (-round(scores[left.index(i)], 5) if i != left[-1] else 9, i)))
    video = [Shown(i, i, i + 1, feature=torch.tensor(x)) for i, x in enumerate(features)]
    shown = Carrier(most).shown(video)
    assert len(shown) == max(1, min(most, len(features))) and shown[-1] == len(features) - 1
    losses = [alike(features[a], features[b]) for a, b in zip(shown, shown[1:], strict=False)]
    theirs = [alike(features[a], features[b]) for a, b in zip(left, left[1:], strict=False)]
    assert shown == left or losses == pytest.approx(theirs, abs=1e-4)  # ties in float32


@pytest.mark.parametrize("variant", speaking(Speaks.PARALLEL))
def test_logits_are_those_of_one_forward_in_which_nobody_but_its_step_sees_a_patch(load_tiny, variant):
    """Two layers: a carrier's keys are made of what it has read."""
    loaded = load_tiny(variant)
    model, stream = loaded.model, random_stream(load_tiny(variant), [(2, 2), (1, 2), (2, 3), (2, 2)], answer_len=10)
    schedule = WaitK(2)
    session = ToldSession(model, stream.prompt, keep="carrier", schedule=schedule, choose=Greedy(1.0, 10))
    spoken_by(model, session.tell(stream.answer), Paced(stream))

    rows = layout(variant, 5, stream.merged, 10, schedule=schedule, t_per_step=model.t_per_step)
    ids, labels = fill(rows, model.markup, stream.prompt, stream.answer)
    embeds, video = model.embed(ids), rows.where(Kind.VIDEO)
    seen = [model.watch_video(p, g) for p, g in zip(stream.pixels, stream.grids, strict=True)]
    embeds[video] = torch.cat(seen)
    lasts = [int((video & (rows.step == step)).nonzero()[-1, 0]) for step in range(4)]
    both = Layout.cat([rows, rows[torch.tensor(lasts)]])
    carrier = torch.arange(len(both)) >= len(rows)
    embeds = torch.cat([embeds, torch.stack([x.mean(0) for x in seen])])
    patch = both.where(Kind.VIDEO) & ~carrier
    mask = both.visible() & ~(patch & ~((both.step[:, None] == both.step) & both.where(Kind.VIDEO)[:, None]))
    suffix = both.where(Kind.SUFFIX)  # arrives with the last patch, and has read it when that goes
    mask |= both.visible() & suffix[:, None] & patch & (both.step == 3) & ~carrier
    mask &= ~(carrier[None] & ~carrier[:, None] & (both.step[:, None] == both.step) & ~(both.stream == SAID)[:, None])
    with torch.no_grad():
        hidden = model.model.language_model(
            inputs_embeds=embeds[None], position_ids=both.position_ids[:, None], attention_mask=mask[None, None]
        ).last_hidden_state[0]
    theirs = model.lm_head(hidden)[: len(rows)][:-1][labels[1:] != -100]
    torch.testing.assert_close(torch.stack(session.seen_logits), theirs, atol=1e-4, rtol=0)
    held = session.cache.tokens[WATCHED]
    assert int(held.where(Kind.VIDEO).sum()) == 4 and session.cache.num_fed == len(both) - 1
    trained = rows.carried()
    order = torch.cat([(trained.stream != CARRIER).nonzero()[:, 0], (trained.stream == CARRIER).nonzero()[:, 0]])
    assert torch.equal(trained.visible()[order][:, order], mask), "the mask of training"
    assert torch.equal(trained.position_ids[:, order], both.position_ids)


@pytest.mark.parametrize("system", ["streamingvlm", "livecc"])
def test_in_chat_turns_a_patch_is_one_token_when_the_next_turn_begins(load_tiny, system):
    loaded, seen, steps = load_tiny(system), [], random_steps(load_tiny(system), 8)
    session = begin(loaded, Scripted, keep="carrier:3:turns_s=2:text_sink=9:text_window=9").tell(answers(loaded, 8))

    def look(s):
        assert s.cache.get_seq_length() == len(ids_of(s.context)) - s.num_pending
        seen.append([len(x) for x in s.context if x.part is Part.VIDEO])

    play(session, steps, look)
    first = 3 if system == "livecc" else 1
    assert seen[:4] == [[4 * first], [first, 4], [first, 1, 4], [first, 1, 1, 4]] and all(
        len(x) == 4 for x in seen[4:]
    )
    if session.policy.compact:
        expected, _ = session.policy.place(session.context, 0, session.t_step)
        where = session.cache.tokens[WATCHED].position_ids
        assert torch.equal(where, expected[:, : where.shape[1]])
    fresh = begin(loaded, keep=session.keep)  # in the first layer keys and values are made of embeddings alone
    means = {i: video.mean(0, keepdim=True) for i, video in enumerate(watched(loaded, steps))}
    if system == "streamingvlm":
        rounds = [x.round for x in session.context if x.part is Part.VIDEO]
        means[rounds[-1]] = watched(loaded, steps)[-1]
        fresh._seen = means
        list(drive(loaded.model, fresh._begin_anew(list(session.context))))
        held = session.cache.get_seq_length()
        ours, theirs = (s.cache.layers[0].stores[WATCHED][..., :held, :] for s in (session, fresh))
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.integers(1, 5))
def test_a_step_of_which_nothing_is_fed_holds_its_place_until_another_one_would_have_to_go(fed, most):
    """So that nothing moves before the bank is full, and no more is held then."""
    video, view = [], []
    for number, feeds in enumerate(fed):
        piece = Shown(number, number, number + 1, feature=torch.tensor([number + 1.0, 1.0]) if feeds else None)
        video = [*view, piece]
        shown = Carrier(most).shown(video)
        view = [piece for piece in video if piece.number in shown]
        assert view[-1] is piece and len(view) <= most + (not feeds)
        lost = [one for one in video if one.number not in shown]
        counted = video if feeds else video[:-1]
        assert len(lost) == max(0, len(counted) - most)
        assert all(one.feature is None for one in lost) or all(one.feature is not None for one in view[:-1])

"""LiveVLM's memory, against its rule in plain words: what is written, what a question reads, and that all else is as
it was."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swwatch.engine.requests import drive
from swwatch.model import long_term
from swwatch.policies.choose import Greedy
from swwatch.policies.memory.livevlm import LiveVlm
from swwatch.policies.speak import WaitK
from swwatch.rules.layout import Kind
from swwatch.rules.spans import Part, ids_of
from swwatch.rules.variants import Speaks, speaking
from swwatch.rules.visibility import WATCHED
from tests.helpers.streams import Paced, asking, logits_under, random_stream
from tests.helpers.turn_streams import Scripted, answers, begin, play, random_steps
from tests.policies.test_memory import Compared, one_layer  # noqa: F401

PARALLEL = speaking(Speaks.PARALLEL)


def written(scores: list[float], orders: list[int], room: int, top: int) -> set[int]:
    """Orders that stay: the best ones, then the best of every stretch, then whatever is best."""
    if len(orders) <= room:
        return set(orders)
    by_score = sorted(range(len(orders)), key=lambda i: -scores[i])
    first, width = min(orders), max(orders) - min(orders) + 1
    stays, taken = [], set()
    for i in by_score:
        stretch = (orders[i] - first) * room // width
        if len(stays) < top or stretch not in taken:
            stays.append(i)
        taken.add(stretch)
    stays += [i for i in by_score if i not in stays]
    return {orders[i] for i in stays[:room]}


@given(st.data(), st.integers(1, 3), st.integers(1, 30), st.integers(1, 12), st.sampled_from([0, 0.25, 0.5, 1]))
def test_what_is_written_are_the_best_tokens_and_the_best_of_every_stretch(data, layers, length, room, top):
    rows = st.lists(st.integers(0, 9), min_size=length, max_size=length)
    scores = torch.tensor([data.draw(rows) for _ in range(layers)], dtype=torch.float32)
    orders = torch.tensor(
        [sorted(data.draw(st.sets(st.integers(0, 99), min_size=length, max_size=length))) for _ in range(layers)]
    )
    chosen = LiveVlm(room, top).write(scores, orders.double())
    for own, score, order in zip(chosen.tolist(), scores.tolist(), orders.tolist(), strict=True):
        assert {order[i] for i in own} == written(score, order, room, round(top * room)) and len(own) == len(set(own))


class Naive:
    """The memory of a one-layer stream, kept in lists. Asked at every prediction, as a rule of Compared."""

    def __init__(self, keep: LiveVlm, questions: dict[int, list[int]]):
        self.keep, self.questions = keep, questions
        self.memory, self.place, self.step_of, self.shown, self.asked, self.newest = [], {}, {}, set(), None, -1

    def __call__(self, session, newest):
        watched = session.cache.tokens[WATCHED]
        orders, video = watched.order.tolist(), watched.where(Kind.VIDEO).tolist()
        if newest != self.newest:
            self.newest, self.asked = newest, self.questions.get(newest, self.asked)
            recent = {o for o, v, s in zip(orders, video, watched.step.tolist(), strict=True) if v and s == newest}
            self.place |= {o: where for o, where in zip(orders, watched.position_ids.T.tolist(), strict=True)}
            self.step_of |= dict.fromkeys(recent, newest)
            self.shown |= recent
            self.write(session, [o for o, v in zip(orders, video, strict=True) if not v])
        seen = {o for o, s, v in zip(orders, watched.step.tolist(), video, strict=True) if v and s <= newest}
        held = {o for o, v in zip(orders, video, strict=True) if v}
        assert held == {*self.memory, *self.recent}
        assert seen == {*self.recent, *self.read(session)}

    def write(self, session, prompt):
        since = self.newest - self.keep.vision_s + 1
        self.recent = [o for o, step in self.step_of.items() if step >= since]
        leaving = [o for o, step in self.step_of.items() if step < since and o not in self.memory]
        self.step_of = {o: step for o, step in self.step_of.items() if o in self.recent}
        if leaving:
            scores = self.attention(session, sorted([*prompt, *self.memory, *leaving, *self.recent]))
            orders = sorted([*self.memory, *leaving])
            top = round(self.keep.top * self.keep.tokens)
            self.memory = sorted(written([scores[o] for o in orders], orders, self.keep.tokens, top))

    def heads(self, session, name, embeds, where=None):
        """(heads, Q, 8) queries or keys, rotated to where they stand."""
        text = session.model.model.language_model
        layer = text.layers[0]
        made = getattr(layer.self_attn, name)(layer.input_layernorm(embeds)).detach().unflatten(-1, (-1, 8))
        made = made.transpose(0, 1)
        if where is None:
            return made
        cos, sin = text.rotary_emb(embeds[None], torch.tensor(where).T[:, None])
        half = made.chunk(2, dim=-1)
        return made * cos[0] + torch.cat([-half[1], half[0]], dim=-1) * sin[0]

    def attention(self, session, orders):
        keys = self.heads(session, "k_proj", session.watched[orders], [self.place[o] for o in orders])
        probes = sorted(self.shown)[-self.keep.newest :]
        queries = self.heads(session, "q_proj", session.watched[probes], [self.place[o] for o in probes])
        total = dict.fromkeys(orders, 0.0)
        for head, rows in enumerate(queries):
            for probe, query in zip(probes, rows, strict=True):
                seen = [i for i, o in enumerate(orders) if o <= probe]
                weights = (keys[head // 2][seen] @ query / math.sqrt(8)).softmax(0)
                for i, weight in zip(seen, weights.tolist(), strict=True):
                    total[orders[i]] += weight
        return total

    def read(self, session):
        pages = len(self.memory) // long_term.PAGE
        if self.asked is None or not pages:
            return self.memory
        queries = self.heads(session, "q_proj", session._embed(self.asked))
        keys = self.heads(session, "k_proj", session.watched[self.memory])[:, : pages * long_term.PAGE]
        means = keys.unflatten(1, (pages, -1)).mean(2)
        near = sum((means[h // 2] @ q / math.sqrt(8)).softmax(0) for h in range(4) for q in queries[h]).tolist()
        chosen = sorted(range(pages), key=lambda page: -near[page])[: math.ceil(self.keep.share * pages)]
        tail = self.memory[pages * long_term.PAGE :]
        size = long_term.PAGE
        return [*(o for page in chosen for o in self.memory[page * size : (page + 1) * size]), *tail]


@pytest.mark.parametrize("variant", PARALLEL)
@given(st.integers(4, 14), st.sampled_from([0.0, 0.5]), st.integers(1, 3), st.integers(1, 5), st.integers(0, 99))
@settings(max_examples=2)
def test_in_one_layer_it_is_one_forward_over_what_was_written_and_is_read(
    one_layer,  # noqa: F811
    variant,
    tokens,
    top,
    seconds,
    newest,
    seed,
):
    loaded = one_layer[variant]
    stream = random_stream(loaded, [(2, 2), (1, 2), (2, 3)] * 3, seed=seed)
    markup = loaded.markup
    asked = {n: [*markup.suffix, *ids, markup.vision_start] for n, ids in ((5, [3, 4, 5]), (8, [6, 7]))}
    keep = LiveVlm(tokens, top, seconds, newest, 0.4)
    options = {"keep": keep, "schedule": WaitK(2), "choose": Greedy(1.0, 40)}
    naive = Naive(keep, asked)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_term, "PAGE", 2)
        session = Compared(loaded.model, stream.prompt, **options).set(stream, naive, asked)
        list(drive(loaded.model, session.run(Paced(stream, orders=asking(loaded, {5: [3, 4, 5], 8: [6, 7]})))))
    assert session.compared > 5 and len(naive.memory) == min(tokens, len(naive.memory)) > 0


@pytest.mark.parametrize("variant", PARALLEL)
def test_with_room_for_all_it_is_all_to_the_bit(load_tiny, variant):
    loaded = load_tiny(variant)
    all_stays, written = (
        logits_under(loaded, keep, asking(loaded, {4: [5, 6]})) for keep in ("all", "livevlm:99:vision_s=2:share=1")
    )
    assert torch.equal(all_stays, written)


@pytest.mark.parametrize("system", ["streamingvlm", "livecc"])
def test_in_chat_turns_the_memory_is_one_run_of_video_and_a_question_reads_some_of_it(load_tiny, system, monkeypatch):
    monkeypatch.setattr(long_term, "PAGE", 2)
    loaded, seen, steps = load_tiny(system), [], random_steps(load_tiny(system), 9)
    session = begin(loaded, Scripted, keep="livevlm:6:vision_s=2:text_sink=9:text_window=9").tell(answers(loaded, 9))

    def look(s):
        s.query = "Who" if s.num_rounds == 5 else s.query
        watched, memory = s.cache.tokens[WATCHED], s.cache.long_term
        assert s.cache.get_seq_length() == len(ids_of(s.context)) - s.num_pending
        hidden = int((watched.order > 10**6).sum())
        held = memory.columns.shape[-1]
        assert hidden == held - (memory.num_read if memory.queries is not None else held)
        seen.append(([len(x) for x in s.context if x.part is Part.VIDEO], hidden))

    play(session, steps, look)
    lengths, hidden = zip(*seen, strict=True)
    if system == "streamingvlm":
        assert list(lengths) == [[4], [4, 4], [4, 4, 4], *([[6, 4, 4]] * 6)] and hidden == (0,) * 5 + (2, 0, 0, 0)
    else:  # whose first turn has three seconds
        assert list(lengths) == [[12], [6, 4], *([[6, 4, 4]] * 5)] and hidden == (0,) * 5 + (2, 0)
    assert session.cache.long_term.columns.shape == (len(session.cache.layers), 4, 6)
    restored = begin(loaded, Scripted, keep=session.keep).tell(answers(loaded, 9))
    restored.restore(session.state())
    assert torch.equal(restored.cache.long_term.columns, session.cache.long_term.columns)

"""A stream in chat turns: watch a second, say its words, forget what is too old, and again, without end.

A session is a coroutine like engine.session's: it yields requests (engine.requests) and tells Spoken and Said, so that
the same drivers serve one or many. What it holds is its `context`, a list of spans; the cache holds the same
tokens in the same order, but for `pending`, which was said and is fed with the next turn. Systems differ in their row
of rules.systems alone: prompt form, what is forgotten, where tokens stand.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from swwatch.data.pixels import merged_grids
from swwatch.data.turns.prompt import SYSTEM_TEXT, Turns
from swwatch.engine.requests import Choose, Feed, Look, Run, Wait
from swwatch.engine.session import stop_ids
from swwatch.engine.source import Ask, Order, Source, Step
from swwatch.engine.trace import SimulatedClock, Spoken
from swwatch.errors import UserError
from swwatch.policies import keep as evict
from swwatch.policies.choose import Choosing, parse_choose
from swwatch.policies.chooser import Chooser
from swwatch.policies.keep import Windows, default_windows
from swwatch.rules import turn_positions as positions
from swwatch.rules.cursor import layout_of
from swwatch.rules.families import t_step
from swwatch.rules.spans import Part, Span, ids_of
from swwatch.rules.visibility import WATCHED

STEP_S = 1.0  # a step is two frames at 2 frames a second
AT_ONCE = 4096  # tokens of a forward: the mask of a text of hours, read anew at a flush, would fill a memory


@dataclass(frozen=True)
class Said:
    """A turn is over.

    Attributes:
        round: its number, from 0.
        start_s, end_s: the seconds that it was about.
        ids: all that was said, " ..." and <|im_end|> included.
        words: the ids without these two.
        t_s: when its last token was emitted, stream seconds.
    """

    round: int
    start_s: float
    end_s: float
    ids: tuple[int, ...]
    words: tuple[int, ...]
    t_s: float


class TurnSession:
    """One stream.

    Attributes:
        context: what the model has in view, in order.
        pending: ids at the end of the context that are not in the cache yet.
        next_position: of the next token to be laid out.
        num_rounds: turns begun.
    """

    def __init__(
        self,
        model,
        turns: Turns,
        *,
        query: str | None = None,
        previous: str | Sequence[int] = "",
        system_text: str = SYSTEM_TEXT,
        eviction: str | None = None,
        windows: Windows | None = None,
        policy: str | None = None,
        choose: Choosing | None = None,
        steps_per_turn: int = 1,
        clock=None,
    ):
        """
        Args:
            model: a Watching, settled as a system that streams in turns.
            turns: makes the spans, in the form of a system.
            query: asked in the first turn; by default the system's own.
            previous: words said before the stream began.
            eviction, windows, policy: of policies.keep and rules.turn_positions; by default the system's own.
            choose: how tokens are chosen; by default as the system does.
            steps_per_turn: seconds of video in a turn; the first turn has at least the system's own number.
            clock: has now() and arrive(at_s) in stream seconds.
        Raises:
            UserError: an unknown policy.
        """
        self.model, self.turns, self.system = model, turns, turns.system
        self.eviction = evict.get(eviction or self.system.eviction)
        self.windows = windows or default_windows(self.system)
        self.policy = positions.get(policy or self.system.positions)
        choose = parse_choose(choose or self.system.choose).settled(model.generation_config)
        vocab_size = model.config.text_config.vocab_size
        self.chooser = Chooser(choose, vocab_size, model.device, ellipsis=turns.ellipsis[0])
        self.clock = clock or SimulatedClock()
        self.steps_per_turn = steps_per_turn
        self.t_step = t_step(model.config)
        self.query = self.system.query if query is None else query
        self.context: list[Span] = turns.begin(previous if isinstance(previous, str) else tuple(previous), system_text)
        self.context = evict.shorten(self.context, self.windows)
        self._begin_context = list(self.context)
        self.pending: list[int] = []
        self.cache = self._new_cache()
        self.next_position = self.num_rounds = self.num_fed = 0
        self.stopped = self.paused = False
        self._seen: dict[int, torch.Tensor] = {}  # round -> embeddings of its video, where they are needed again
        self.logits: torch.Tensor | None = None
        self._stops = stop_ids(model)

    # ---- the whole --------------------------------------------------------------------------------------------------

    def run(self, source: Source) -> Run:
        """Watch and speak until the source ends or STOP. A question takes effect with the next turn; in a pause turns
        are watched and nothing is said."""
        steps: list[Step] = []
        while not self.stopped:
            for order in source.orders():
                if isinstance(order, Ask):
                    self.query = order.text
                else:
                    self.stopped |= order is Order.STOP
                    self.paused = order is Order.PAUSE if order is not Order.STOP else self.paused
            if self.stopped:
                return
            step = source.poll()
            if step is not None:
                steps.append(step)
            elif not source.ended:
                yield Wait(source)
                continue
            over = step is None or step.last
            while count := self.num_ready(steps, over):
                yield from self.turn(steps[:count], silent=self.paused)
                steps = steps[count:]
            if over:
                return

    @property
    def steps_due(self) -> int:
        """Seconds of video that the next turn takes."""
        first = self.system.first_frames // 2
        return max(first, self.steps_per_turn) if self.num_rounds == 0 else self.steps_per_turn

    def num_ready(self, steps: Sequence[Step], over: bool) -> int:
        """How many of the steps that wait make the next turn; 0: more must come first.

        A turn has pictures of one size: it ends early where the size changes, and where the stream is over.
        """
        alike = [torch.equal(step.grid_thw, steps[0].grid_thw) for step in steps[: self.steps_due]]
        if False in alike:
            return alike.index(False)
        return len(alike) if over or len(alike) == self.steps_due else 0

    def turn(self, steps: Sequence[Step], *, silent: bool = False) -> Run:
        """One turn: forget, watch, speak.

        Args:
            steps: seconds that follow one another, the first where the turn before ended.
            silent: say nothing: the answer is " ..." alone.
        """
        start_s, end_s = steps[0].arrival_s - STEP_S / 2, steps[-1].arrival_s + STEP_S / 2
        yield from self._forget(end_s)
        merge = self.model.config.vision_config.spatial_merge_size
        grids = [merged_grids(step.grid_thw, merge)[0] for step in steps]
        if len(set(grids)) > 1:
            raise UserError("the picture's size changes within this turn: end it before that step, see num_ready")
        self.clock.arrive(steps[-1].arrival_s)
        embeds = []
        for step in steps:
            embeds.append((yield Look(step.pixel_values, step.grid_thw)))
        yield from self._converse(start_s, end_s, (len(steps), *grids[0]), torch.cat(embeds), steps[-1], silent)

    def answer(self, question: str, max_new_tokens: int = 512) -> Run:
        """A turn of text alone about what has been watched: a question and its whole answer."""
        if not self.num_rounds:
            raise UserError("nothing has been watched yet: ask once the stream has begun")
        asked, self.query, last = self.query, question, max(span.end_s for span in self.context)
        how = self.chooser.choose
        self.chooser.choose = replace(how, max_new_tokens=max_new_tokens, threshold=None, threshold_step=0.0)
        try:
            yield from self._converse(last, last, None, None, None, False)
        finally:
            self.chooser.choose, self.query = how, asked  # a question for the next turn still waits

    def probe(self, question: str, beginning: tuple[int, ...]) -> Run:
        """What would follow a question and the beginning of its answer: (V,) logits. The stream stays as it is.

        Nothing is looked at again and nothing is forgotten for it.
        """
        if not self.num_rounds:
            raise UserError("nothing has been watched yet: ask once the stream has begun")
        kept, number, last = self.state(), self.num_rounds, max(span.end_s for span in self.context)
        spans = self._closing()
        spans += self.turns.turn(number, last, last, None, question)
        logits = yield from self._read([*spans, Span(Part.ANSWER, beginning, None, number, last, last)])
        self.restore(kept)
        return logits

    # ---- one turn ---------------------------------------------------------------------------------------------------

    def _converse(self, start_s: float, end_s: float, grid, video: torch.Tensor | None, newest: Step | None, silent):
        number, self.num_rounds = self.num_rounds, self.num_rounds + 1
        query, self.query = self.query, None
        spans = self._closing()
        spans += self.turns.turn(number, start_s, end_s, grid, query)
        if video is not None and self.eviction.recomputes:
            self._seen[number] = video
        if not self.num_fed:
            spans, self.context = [*self.context, *spans], []
        self.logits = yield from self._read(spans, video)
        said: list[int] = []
        self.context.append(Span(Part.ANSWER, (), None, number, start_s, end_s))
        arrival_s = newest.arrival_s if newest else self.clock.now()
        self.chooser.begin_anew(ids_of(self.context))
        self.chooser.begin_turn()
        if silent:
            said = [*self.turns.ellipsis, self.turns.im_end]
            self._say(said)
        while not silent:
            token = yield from self._choose()
            token = self.turns.im_end if token in self._stops else token  # the chat form knows one end
            said.append(token)
            self._say([token])
            yield Spoken(number, token, number, arrival_s, self.clock.now())
            if token == self.turns.im_end or self.chooser.choose.left(len(said)) <= 0:
                break
            self.logits = yield from self._read()
        if said[-1] != self.turns.im_end:  # cut off, and no word is lost
            self._say([self.turns.im_end])
        ids, mute = self.context[-1].ids, evict.len_of_mute(self.context[-1].ids, self._mute)
        yield Said(number, start_s, end_s, ids, ids[: len(ids) - mute], self.clock.now())

    def _choose(self) -> Run:
        return (yield Choose(self.chooser, self.logits, True))

    def _closing(self) -> list[Span]:
        """What closes the turn before; it is forgotten with that turn's answer."""
        if not self.context or self.context[-1].part is not Part.ANSWER:
            return []
        answer = self.context[-1]
        return [self.turns.close(answer.round, answer.start_s, answer.end_s)]

    @property
    def _mute(self) -> tuple[int, ...]:
        return (*self.turns.ellipsis, self.turns.im_end)

    def _say(self, ids: list[int]) -> None:
        """Put ids at the end of the answer; they are fed later."""
        self.context[-1] = replace(self.context[-1], ids=(*self.context[-1].ids, *ids))
        self.pending += ids

    def _read(self, spans: Sequence[Span] = (), video: torch.Tensor | None = None) -> Run:
        """Feed what is pending and then new spans, if any; returns the logits after the last token."""
        ids, self.pending = self.pending, []
        tail = [replace(self.context[-1], ids=tuple(ids))] if ids else []
        logits = yield from self._feed([*tail, *spans], video)
        self.context += spans
        return logits

    def _feed(self, spans: list[Span], video: torch.Tensor | None) -> Run:
        where, self.next_position = self.policy.place(spans, self.next_position, self.t_step)
        embeds = self.model.embed(ids_of(spans)).to(self.model.dtype)
        if video is not None:
            shown = torch.cat([torch.full((len(span),), span.part is Part.VIDEO) for span in spans])
            embeds[shown.to(embeds.device)] = video.to(embeds)
        rows, logits = layout_of(spans, where, self.num_fed), None
        self.num_fed += len(rows)
        for begin in range(0, len(rows), AT_ONCE):
            part, last = slice(begin, begin + AT_ONCE), begin + AT_ONCE >= len(rows)
            logits = yield Feed(self.cache, rows[part], embeds[part], -1 if last else None)
        return logits

    # ---- forgetting -------------------------------------------------------------------------------------------------

    def _forget(self, end_s: float) -> Run:
        """Let go of what a turn that ends at `end_s` no longer sees."""
        how, windows = self.eviction, self.windows
        if not self.num_rounds:
            return
        if how.restarts:
            begun = min(span.start_s for span in self.context if span.round >= 0)
            if windows.vision_s is not None and end_s - begun > windows.vision_s + evict.TOLERANCE_S:
                query = next((span for span in self.context if span.part is Part.QUERY), None)
                yield from self._begin_anew(self._begin_context)
                self.query = self.query or (None if query is None else self.turns.tokenizer.decode(query.ids))
            return
        if how.flushes:
            if windows.flush_s is not None and evict.seconds_of_video(self.context) >= windows.flush_s:
                unseen = (Part.VISION, Part.VIDEO)
                yield from self._begin_anew([span for span in self.context if span.part not in unseen])
            return
        if not how.slides:
            return
        left = evict.slide(self.context, end_s, windows, self._mute)
        if not how.recomputes and [place for _, place in left] == [place for _, place in evict.whole(self.context)]:
            return
        if self.pending and not (left[-1][1] and left[-1][1][-1] == len(ids_of(self.context)) - 1):
            yield from self._read()  # words that are about to move must be in the cache
        if how.recomputes:
            yield from self._begin_anew(evict.joined(left))
            return
        num_cached = len(ids_of(self.context)) - len(self.pending)
        index = torch.tensor([i for _, place in left for i in place if i < num_cached], dtype=torch.int64)
        self.context = evict.joined(left)
        self.cache.keep(WATCHED, index)
        if self.policy.compact:
            where, end = self.policy.place(self.context, 0, self.t_step)
            self.cache.reindex(WATCHED, where[:, : len(index)])
            self.next_position = end - len(self.pending)  # which are text, one position each

    def _begin_anew(self, context: list[Span]) -> Run:
        """Read a context into an empty cache."""
        self.cache, self.pending, self.next_position = self._new_cache(), [], 0
        self.context, rounds = [], {span.round for span in context}
        self._seen = {number: video for number, video in self._seen.items() if number in rounds}
        shown = [self._seen[span.round] for span in context if span.part is Part.VIDEO]
        yield from self._feed(list(context), torch.cat(shown) if shown else None)
        self.context = list(context)

    def _new_cache(self):
        return self.model.new_cache(endless=self.policy.compact and self.eviction.slides)

    # ---- keeping ----------------------------------------------------------------------------------------------------

    def state(self) -> dict:
        """All that a stream is, between two turns, for `restore` or torch.save: later turns do not change it."""
        names = ("context", "pending", "query", "next_position", "num_rounds", "num_fed", "paused", "_begin_context")
        kept = {name: _copied(getattr(self, name)) for name in names}
        stores = [(dict(layer.stores), dict(layer.first_keys)) for layer in self.cache.layers]
        kept |= {"stores": stores, "tokens": dict(self.cache.tokens), "seen": dict(self._seen)}
        return kept | {
            "first_positions": dict(self.cache.first_positions),
            "chooser": self.chooser.state(),
        }

    def restore(self, state: dict) -> None:
        """Go on from a `state` of a session made with the same arguments."""
        for name, value in state.items():
            if name not in ("stores", "tokens", "seen", "first_positions", "chooser"):
                setattr(self, name, _copied(value))
        self.cache = self._new_cache()
        self.cache.tokens, self.cache.first_positions = dict(state["tokens"]), dict(state["first_positions"])
        for layer, (stores, first_keys) in zip(self.cache.layers, state["stores"], strict=True):
            layer.stores, layer.first_keys = dict(stores), dict(first_keys)
        self._seen = dict(state["seen"])
        self.chooser.load_state(state["chooser"])


def _copied(value):
    return list(value) if isinstance(value, list) else value

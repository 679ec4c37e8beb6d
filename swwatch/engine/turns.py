"""A stream in chat turns: watch a second, say its words, forget what is too old, and again, without end.

What a session holds is its `context`, a list of spans; the cache holds the same tokens in the same order, but for
those `pending`, which were said and are fed with the next turn. Systems differ in their row of rules.systems alone:
prompt form, what is forgotten, where tokens stand.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from swwatch.data.pixels import merged_grids
from swwatch.data.turns.prompt import SYSTEM_TEXT, Turns
from swwatch.engine.base import BaseSession
from swwatch.engine.keeping import feed, new_cache
from swwatch.engine.requests import Look, Run
from swwatch.engine.source import Step
from swwatch.engine.trace import Asked, Reflected, Said, Spoken
from swwatch.engine.turns_asked import AskedTurns
from swwatch.errors import UserError
from swwatch.model.cache import Mark
from swwatch.model.protocols import StreamingModel
from swwatch.policies.choose import Choosing, parse_choose
from swwatch.policies.keep import Keep, parse_keep
from swwatch.policies.memory.pieces import len_of_mute
from swwatch.policies.think import OFF, Think, parse_think
from swwatch.rules import turn_positions as positions
from swwatch.rules.chosen import chosen
from swwatch.rules.cursor import layout_of
from swwatch.rules.layout import Layout
from swwatch.rules.spans import Part, Span, ids_of
from swwatch.rules.visibility import SAID


class TurnSession(AskedTurns):
    """One stream.

    A question takes effect with the next turn, other orders between two turns, but for STOP, which cuts off what is
    being said or thought; in a pause turns are watched and nothing is said. In systems that think a question ends the
    segment that has begun, and has a turn of its own; the one that the stream was opened with is asked at its end;
    thinking goes on in a pause. A stream may be continued: `run` with another source.

    Attributes:
        thinks: what is watched is thought about, in systems that do so.
        ending: no step comes after those that are here.
        context: what the model has in view, in order.
        next_position: of the next token to be laid out.
        num_rounds: turns begun; num_steps: steps watched; num_thinned: turns whose groups have been thinned.
        num_laid: tokens laid out; num_said: of these, where what is said is a stream of its own.
        num_fed: tokens fed, again and again where they were read anew.
        newest_arrival_s: of the newest step that was watched.
    """

    FACTS = (
        *BaseSession.FACTS,
        "query",
        "next_position",
        "num_rounds",
        "num_steps",
        "num_thinned",
        "num_laid",
        "num_said",
        "num_fed",
        "newest_arrival_s",
    )

    def __init__(
        self,
        model: StreamingModel,
        turns: Turns,
        *,
        query: str | None = None,
        previous: str | Sequence[int] = "",
        system_text: str = SYSTEM_TEXT,
        before: Sequence[tuple[str, str]] = (),
        keep: Keep | str | None = None,
        policy: str | None = None,
        choose: Choosing | None = None,
        think: Think | str | None = None,
        seconds_per_turn: float | None = None,
        given: Callable[[float, float], str | None] | None = None,
        clock=None,
    ):
        """
        Args:
            model: settled as a system that streams in turns.
            turns: makes the spans, in the form of a system.
            query: asked in the first turn; by default the system's own.
            previous: words said before the stream began; before: (role, words) of turns of text before it.
            keep, policy: of policies.keep and rules.turn_positions; by default the system's own.
            choose: how tokens are chosen; by default as the system does.
            think: `off`: nothing is thought, in systems that do so.
            seconds_per_turn: seconds of video in a turn, see System.patches_of_turns; by default as the
                checkpoint has it.
            given: of the seconds that a turn is about, the words that stand in the stream from then on, in place of
                those that were said; None leaves these.
            clock: has now() and arrive(at_s) in stream seconds.
        Raises:
            UserError: an unknown policy, one that this attention cannot carry out, positions that are none of the
                system's, or turns of no whole patches.
        """
        self.turns, self.system = turns, turns.system
        self.keep, think = parse_keep(keep or self.system.keep), think and parse_think(think)
        self.policy = positions.of(self.system, policy)
        self.step_s = model.settings.step_s
        turn_s = seconds_per_turn or model.settings.seconds_per_turn
        self._first_steps, self._later_steps = self.system.patches_of_turns(model.settings.fps, turn_s)
        choose = parse_choose(choose or self.system.choose)
        super().__init__(model, choose=choose, clock=clock, ellipsis=next(iter(turns.ellipsis), None))
        self._begin_keeping()
        if think is not None:
            think.check(self.variant)
        self.given, self.t_step = given, model.t_per_step
        self.query = self.system.query if query is None else query
        self.context: list[Span] = self.keep.beginning(turns.begin(previous, system_text, before=before))
        self._begin_context = list(self.context)
        self.next_position = self.num_rounds = self.num_steps = self.num_thinned = 0
        self.num_laid = self.num_said = self.num_fed = self.newest_arrival_s = 0
        self.thinks, self.ending = think != OFF, False
        self._waiting: list[Step] = []  # for the rest of their turn
        self._seen: dict[int, torch.Tensor] = {}  # round -> embeddings of its video, where they are needed again

    # ---- the whole --------------------------------------------------------------------------------------------------

    def begin(self) -> Run:
        """Nothing: the first turn brings what precedes it."""
        self.closed = False
        yield from ()

    def _next(self) -> list[Step] | None:
        """The step that has arrived; [] at the end."""
        step = self._source.poll()
        if step is None:
            return [] if self._source.ended else None
        return [step]

    def advance(self, arrived: list[Step]) -> Run:
        """The turns that can be held now. It may be called by those who have the steps in hand.

        Args:
            arrived: the step that has arrived, or several; []: none will follow.
        """
        if self.system.thinks and self.asks and not self.paused:  # they come before what arrives now
            yield from self._hold_turns(over=True)
            yield from self._ask_now()
        self._waiting += arrived
        over = self.ending = not arrived or arrived[-1].last
        if over and not self._waiting and not self.num_rounds:
            raise UserError("the stream ended before its first frame: nothing to describe")
        yield from self._hold_turns(over)
        yield from self._ask_now()
        self.closed = over

    def _hold_turns(self, over: bool) -> Run:
        """The turns that the steps which wait make; `over`: none wait for more."""
        while not self.stopping and (count := self.num_ready(self._waiting, over)):
            steps, self._waiting = self._waiting[:count], self._waiting[count:]
            yield from self.turn(steps, silent=self.paused)

    @property
    def steps_due(self) -> int:
        """Steps of video that the next turn takes."""
        return self._later_steps if self.num_rounds else self._first_steps

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
            steps: that follow one another, the first where the turn before ended.
            silent: say nothing: the answer is " ..." alone. Thoughts are not said.
        """
        start_s, end_s = (step.video_end_s(self.step_s) for step in (steps[0], steps[-1]))
        start_s -= self.step_s
        yield from self._forget(end_s)
        merge = self.model.config.vision_config.spatial_merge_size
        grids = [merged_grids(step.grid_thw, merge)[0] for step in steps]
        if len(set(grids)) > 1:
            raise UserError("the picture's size changes within this turn: end it before that step, see num_ready")
        self.newest_arrival_s = steps[-1].arrival_s
        self.clock.arrive(self.newest_arrival_s)
        embeds = []
        for step in steps:
            seen = yield Look(step.pixel_values, step.grid_thw, reuse=self.seen.reuse)
            if self.seen.policy.reuses:
                self.seen.look(seen, grids[0], self.model.num_deep)
            embeds.append(seen)
        yield from self._converse(start_s, end_s, (len(steps), *grids[0]), torch.cat(embeds), steps, silent)
        yield from self._ask_now()

    # ---- one turn ---------------------------------------------------------------------------------------------------

    def _converse(
        self, start_s: float, end_s: float, grid, video: torch.Tensor | None, steps: Sequence[Step], silent: bool
    ) -> Run:
        self.speaking = True
        number, self.num_rounds = self.num_rounds, self.num_rounds + 1
        thought, asks, query = bool(steps) and self.system.thinks, [], None
        if not thought:
            asks, self.asks = (self.asks, []) if steps else ([], self.asks)
            if asks:
                self.query = "\n".join(ask.text for ask in asks)
            query, self.query = self.query, None
        turn = self.turns.turn(number, start_s, end_s, grid, query)
        yield from self._recall([span for span in turn if span.part is Part.QUERY])
        spans = [*self._closing(), *turn]
        if video is not None and (self.keep.every_turn or self.keep.carries):
            self._seen[number] = video
        if not self.num_fed:
            spans, self.context = [*self.context, *spans], []
        beside = self.system.aside and self._is_asked
        self.logits = yield from self._read(spans[:-1] if beside else spans, video)
        first, self.num_steps = self.num_steps, self.num_steps + len(steps)
        for i, step in enumerate(steps, start=first):
            yield from self._tell_watched(i, step, grid=grid[1:])
        for ask in asks:
            yield Asked(first, ask.text, self.clock.now(), **self._told())
        if beside:  # no question waits for a thought
            yield from self._ask_now()
            self.speaking, self.logits = True, (yield from self._read(spans[-1:]))

        self.context.append(Span(Part.ANSWER, (), None, number, start_s, end_s))
        laid = self.cache.mark(), self.next_position, self.num_laid, self.num_said
        end, last = self.turns.end(reply=not steps), None
        if thought and not self.thinks or silent and not thought:
            self._say([*self.turns.ellipsis, end])
        else:
            last = yield from self._speak(end, thought)
        yield from self._tell(wait=True)
        ids = self.context[-1].ids
        if self.given is not None and steps and (given := self.given(start_s, end_s)) is not None:
            self._replace(self.turns.answer(given), *laid)
        words = ids[: len(ids) - len_of_mute(ids, (*self.turns.ellipsis, ids[-1]))]
        self.speaking = False
        wrong_end = None if last in (None, end) else last
        yield Said(number, start_s, end_s, ids, words, self.clock.now(), thought, wrong_end)

    def _speak(self, end: int, thought: bool) -> Run:
        """Choose token after token until one ends the answer, which is returned; None where it was cut off.

        Args:
            end: the token that the form wants there.
        """
        newest, ends = self.num_steps - 1, self._stops | self.turns.ends
        self.chooser.begin_anew(ids_of(self.context))
        self.chooser.begin_turn()
        while not self._hears_stop():
            token = yield from self._choose(True)
            if token in self._stops and end in self._stops:  # the chat form knows one end
                token = end
            yield from self._tell(wait=True)  # the choice has waited for all that was fed
            if self.keep.weighs:
                self.weights.say(self.context[-1].round, self.logits, token)
            self._say([token])
            what, begins = (Reflected, (len(self.context[-1]) == 1,)) if thought else (Spoken, ())
            yield what(newest, token, newest, self.newest_arrival_s, self.clock.now(), *begins)
            if token in ends:
                return token
            if self.chooser.choose.left(len(self.context[-1])) <= 0:
                break
            self.logits = yield from self._read()
        self._say([end])  # cut off, and no word is lost
        return None

    @property
    def _mute(self) -> tuple[int, ...]:
        return (*self.turns.ellipsis, self.turns.im_end)

    def _say(self, ids: list[int]) -> None:
        """Put ids at the end of the answer; they are fed later."""
        answer = self.context[-1]
        self.pending.append((ids, self._lay([replace(answer, ids=tuple(ids))])))
        self.context[-1] = replace(answer, ids=(*answer.ids, *ids))

    def _replace(self, ids: tuple[int, ...], mark: Mark, next_position: int, num_laid: int, num_said: int) -> None:
        """Let other ids stand as the newest answer, as if nothing else had been said."""
        self.cache.restore(mark)
        self.pending, self.next_position, self.num_laid, self.num_said = [], next_position, num_laid, num_said
        self.context[-1] = replace(self.context[-1], ids=())
        self._say(list(ids))

    def _lay(self, spans: Sequence[Span]) -> Layout:
        """Where spans stand behind all that was laid out before."""
        apart = self.policy.apart
        where, self.next_position = self.policy.place(spans, self.next_position, self.t_step, self.num_said)
        rows = layout_of(spans, where, self.num_laid - self.num_said, self.num_said if apart else None)
        self.num_laid += len(rows)
        self.num_said += int((rows.stream == SAID).sum())
        return rows

    def _read(self, spans: Sequence[Span] = (), video: torch.Tensor | None = None) -> Run:
        """Feed what is pending and then new spans, if any; returns the logits after the last token."""
        said, rows = self._take_pending() if self.pending else ([], None)
        if said and spans and self.policy.apart:
            rows.sees[-1] = max(rows.sees[-1], spans[-1].round)  # what it predicts comes after them
        rows = Layout.cat([part for part in (rows, self._lay(spans) if spans else None) if part is not None])
        embeds = self._embed([*said, *ids_of(spans)])
        if video is not None:
            shown = torch.cat([torch.full((len(span),), span.part is Part.VIDEO) for span in spans])
            embeds[len(said) :].index_copy_(0, chosen(shown, embeds.device), video.to(embeds))
        self.num_fed += len(rows)
        self.context += spans
        return (yield from feed(self.cache, rows, embeds))

    # ---- forgetting -------------------------------------------------------------------------------------------------

    def _begin_anew(self, context: list[Span]) -> Run:
        """Read a context into an empty cache."""
        self.cache, self.pending, self.next_position = self._new_cache(), [], 0
        self.context, rounds = [], {span.round for span in context}
        self._seen = {number: video for number, video in self._seen.items() if number in rounds}
        shown = [self._seen[number] for number in dict.fromkeys(s.round for s in context if s.part is Part.VIDEO)]
        yield from self._read(list(context), torch.cat(shown) if shown else None)

    def _new_cache(self):
        moves = self.policy.compact and self.keep.moves
        return new_cache(self.model, self.keep, moves or self.keep.parks or self.keep.writes, moves)

    # ---- keeping ----------------------------------------------------------------------------------------------------

    def state(self) -> dict:
        return super().state() | {
            "context": [span.state() for span in self.context],
            "begin_context": [span.state() for span in self._begin_context],
            "waiting": [dict(vars(step)) for step in self._waiting],
            "seen": dict(self._seen),
        }

    def restore(self, state: dict) -> None:
        super().restore(state)
        self.context = [Span.of_state(span) for span in state["context"]]
        self._begin_context = [Span.of_state(span) for span in state["begin_context"]]
        self._waiting = [Step(**step) for step in state["waiting"]]
        self._seen, self.speaking = dict(state["seen"]), False

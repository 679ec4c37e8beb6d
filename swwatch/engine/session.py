"""What a session does, whatever its engine: the rules of watching, speaking, questions and orders.

A session is ONE coroutine, `run(source)`: it yields requests to its driver (see requests.py) and tells Watched, Asked
and Spoken. It goes from step to step:

    take the next step from the source, bring its rows into the cache, speak what the schedule allows, and again

`Session` itself is the serial engine: it asks for the next step when the tokens of this one are spoken. It serves all
variants and is the reference for every other engine. Parallel variants decode from two KV stores, interleave
alternates in one sequence, the offline ones watch as frames come and speak at the end. Every token is fed to the LLM
exactly once.

Engines that watch while speaking differ in what they do with the next step meanwhile. They override:

- `begin`: who feeds the prompt;
- `_predict`: feeds text rows and returns the logits after the last. The place to call `_watch_ahead`, which polls the
  source and lays out the step that has arrived, and to work on that step, `self.ahead`;
- `_bring_in`: returns when all rows of a step are in `self.cache`, whether work on them began ahead or not.

One step ahead and no more: where the patch after that begins may depend on words that are not said yet (overlap). So a
slow speaker holds the watcher back by one step and what the source's queue can take.
"""

import torch

from swwatch.data.pixels import merged_grids
from swwatch.engine.base import BaseSession
from swwatch.engine.choose import check_parallel
from swwatch.engine.decider import Decider
from swwatch.engine.endless import Forgetting
from swwatch.engine.incoming import Incoming
from swwatch.engine.keeping import new_cache
from swwatch.engine.requests import Feed, Look, Run
from swwatch.engine.source import Step
from swwatch.engine.thinking import Thinking
from swwatch.engine.trace import Asked, Spoken
from swwatch.errors import UserError
from swwatch.model.protocols import StreamingModel
from swwatch.model.vision_tower import VideoFeatures
from swwatch.policies.choose import Choosing, Greedy
from swwatch.policies.keep import ALL, Keep, parse_keep
from swwatch.policies.see.seen import Seen
from swwatch.policies.speak import Speak
from swwatch.policies.think import OFF, Think, parse_think
from swwatch.rules.cursor import Cursor
from swwatch.rules.layout import Kind, Layout
from swwatch.rules.patch import Patch
from swwatch.rules.variants import Speaks


class Session(BaseSession):
    """One stream being narrated. `run` is the whole of it; `begin`, `watch` and `close` are its parts, for those who
    have the steps in hand: exhaust one before starting the next.

    Attributes:
        while_speaking: it watches while it speaks, which parallel variants alone permit.
        ahead: the step that is being watched while this one's words are spoken.
        seen: what the SEE policy let through: fed + dropped video tokens are those that arrived.
        arrived_s: step -> stream seconds, of the step whose words are being said and of what came since.
        num_spoken: in this answer; finished: it has ended.
        thinking: what is thought beside the words; None: nothing is.
        num_probed: rows that were fed for a decision of the SPEAK policy, and that the cache has forgotten since.
    """

    while_speaking = False
    FACTS = (*BaseSession.FACTS, "arrived_s", "num_spoken", "finished", "_asked", "num_probed")

    def __init__(
        self,
        model: StreamingModel,
        prompt: list[int],
        *,
        schedule: Speak | None = None,
        choose: Choosing | None = None,
        clock=None,
        keep: Keep | str | None = None,
        think: Think | str | None = None,
    ):
        """
        Args:
            prompt: token ids up to and including <|vision_start|>.
            schedule: by default the checkpoint's own.
            choose: how tokens are chosen; by default the likeliest one.
            clock: has now() and arrive(at_s) in stream seconds; by default a SimulatedClock.
            keep: what stays of a stream without end; None: all.
            think: what is thought beside the words; None: nothing is.
        Raises:
            UserError: the engine cannot run the checkpoint's variant, or does not keep or think so.
        """
        self.keep = parse_keep(keep or ALL)
        super().__init__(model, choose=choose or Greedy(), clock=clock)
        if self.variant.speaks is Speaks.TURNS:
            raise ValueError(f"{self.variant.name!r} speaks in chat turns: open_session has a form for it")
        if self.while_speaking:
            check_parallel(self.name, self.variant)
        self.schedule = schedule or model.settings.schedule
        self.seen = Seen(model.settings.see)
        self.keep.check_see(self.seen.policy)
        self.decider = Decider(self.schedule)
        self.cursor = Cursor(self.variant, model.t_per_step)
        self.ahead: Incoming | None = None
        self.num_spoken, self.finished, self.num_probed = 0, self.schedule.learned, 0
        self.arrived_s: dict[int, float] = {}
        self._prompt = list(prompt)
        self._asked = [*prompt, self.markup.video]  # ids that stay in view for ever
        self.chooser.see(self._asked)
        self.keep.check(self.variant)
        self.decider.check(self)
        think = parse_think(think or OFF)
        self.thinking = None if think == OFF else Thinking(self, think)
        self._forgetting = Forgetting(self) if self.keep.forgets else None

    # ---- the whole --------------------------------------------------------------------------------------------------

    def begin(self) -> Run:
        """Feed the prompt."""
        if self.cache.num_fed:  # it goes on from a state
            return
        embeds = self._embed(self._prompt)
        if self._forgetting is not None:
            self._forgetting.watch(embeds)
        yield Feed(self.cache, self.cursor.prompt(len(self._prompt)), embeds, predicts=None)

    def arrival_s(self, step: int, nominal_s: float) -> float:
        return self.schedule.arrival_s(step, nominal_s, self.model.settings.step_s)

    def watch(self, pixel_values: torch.Tensor, grid_thw: torch.Tensor, arrival_s: float, last: bool = False) -> Run:
        """Take in one step (two frames) and speak what the schedule allows.

        Args:
            pixel_values: (patches, D) of one temporal patch.
            grid_thw: (1, 3), patches before the merge; t must be 1.
            arrival_s: when its second frame arrived, stream seconds.
            last: nothing follows; the rest of the answer is spoken now.
        """
        self._refuse_if_speaking()
        if self.closed:
            raise ValueError("this session is closed: begin a new one for another stream")
        incoming = self._lay(Step(pixel_values, grid_thw, arrival_s, last))
        self.clock.arrive(arrival_s)
        yield from self.advance(incoming)

    def close(self) -> Run:
        """The stream ended after a step that was not marked as the last: speak the rest.

        The layout is that of one more step without video tokens, so training's rules hold here as well.
        """
        self._refuse_if_speaking()
        if not self.closed:
            yield from self.advance(self._lay(None))

    def _refuse_if_speaking(self) -> None:
        if self.speaking:
            raise ValueError("the tokens of the step before have not all been taken: exhaust its generator first")

    # ---- what comes in ----------------------------------------------------------------------------------------------

    def _next(self) -> Incoming | None:
        """The step that was begun ahead, else one that has arrived, else the end; None: it has not come yet."""
        if self.ahead is not None:
            incoming, self.ahead = self.ahead, None
            return incoming
        step = self._source.poll()
        return self._lay(step) if step is not None or self._source.ended else None

    def _watch_ahead(self) -> bool:
        """While speaking: lay out the next step as `self.ahead`, if it has just arrived. Returns whether it has."""
        if self._source is None or self.ahead is not None or self.closed:
            return False
        self.ahead = self._next()
        return self.ahead is not None

    def _lay(self, step: Step | None) -> Incoming:
        """Lay out the next step (None: the end), behind the questions that were asked since the last one."""
        if step is None and not self.arrived_s:
            raise UserError("the stream ended before its first frame: nothing to describe")
        patch, change = Patch(0, 0), None
        if step is not None:
            grid, *more = merged_grids(step.grid_thw, self.model.config.vision_config.spatial_merge_size)
            if more:
                raise ValueError(f"watch takes one step at a time, got {1 + len(more)}")
            (patch,) = self.markup.announced([self.seen.lay(step.pixel_values, grid)], self.cursor.num_steps)
            change = self.decider.look(step.pixel_values, grid)
            self.arrived_s = self.arrived_s | {self.cursor.num_steps: step.arrival_s}
        index, last = self.cursor.num_steps, step is None or step.last
        asks, self.asks = self.asks, []
        rows, parts = [self.cursor.ask(len(ask.ids)) for ask in asks], [ask.ids for ask in asks]
        rows.append(self.cursor.watch(*patch))
        if patch.before:
            parts.append(self.markup.before(index))
        if patch.num_arrived > patch.num_dropped:
            parts.append(Look(step.pixel_values, step.grid_thw, patch.kept, reuse=self.seen.reuse))
        if patch.after:
            parts.append(self.markup.closing)
        if last:
            rows.append(self.cursor.suffix(len(self.markup.suffix)))
            parts.append(self.markup.suffix)
        return Incoming(index, step, last, asks, Layout.cat(rows), patch, parts, change=change)

    def _look(self, incoming: Incoming) -> Run:
        """Find the embeddings of a step, and, where the SEE policy decides by them, what is left of it."""
        embeds = []
        for part in incoming.parts:
            seen = (yield part) if isinstance(part, Look) else part.take() if isinstance(part, VideoFeatures) else part
            if self.seen.policy.decides_late and not isinstance(part, tuple):
                patch, seen = self.seen.look(seen, incoming.patch[:2], self.model.num_deep)
                incoming.strike(patch, self.cursor)
            embeds.append(self._embed(seen) if isinstance(seen, tuple) else seen.to(self._dtype))
        incoming.embeds = torch.cat(embeds) if embeds else self._embed([])  # nothing of a patch may be kept

    def _bring_in(self, incoming: Incoming) -> Run:
        """What is left of a step into the cache. In one sequence, what was said before comes first."""
        if incoming.embeds is None:
            yield from self._look(incoming)
        if not incoming.num_left:
            if not len(incoming.rows):  # else it was told with the last of them
                yield from self._tell_watched(incoming.index, incoming.step, incoming.patch)
            return
        rows, embeds = incoming.take(incoming.num_left)
        decides = -1 if self.decider.listens else None
        one_sequence = self.variant.speaks is Speaks.ALTERNATING
        if one_sequence and self.pending:
            said = self._take_words(incoming.index)
            rows, embeds = Layout.cat([said[0], rows]), torch.cat([said[1], embeds])
        fed = yield Feed(self.cache, rows, embeds, -1 if one_sequence else None, decides)
        self.logits, incoming.not_yet = (fed, None) if decides is None else fed
        yield from self._tell_watched(incoming.index, incoming.step, incoming.patch)

    # ---- what goes out ----------------------------------------------------------------------------------------------

    def advance(self, incoming: Incoming) -> Run:
        """One step: watch it, and speak."""
        index, last = incoming.index, incoming.last
        self.closed, self.speaking = last, True
        newest = min(index, max(self.arrived_s))  # a late end has no arrival
        self.arrived_s = {step: at_s for step, at_s in self.arrived_s.items() if step >= newest}
        yield from self._bring_in(incoming)
        if incoming.patch.num_around:
            self._view(self.markup.around([index]))
        if self._forgetting is not None and (yield from self._forgetting.forget(incoming)):
            self.chooser.begin_anew([*self._asked, *self._forgetting.said_ids])
        for ask in incoming.asks:
            self._view(ask.ids)
            yield Asked(
                index, ask.text, self.clock.now(), **(self._forgetting.recalled_now() if self._forgetting else {})
            )
        offline = self.variant.speaks is Speaks.OFFLINE
        learned, due = self.schedule.learned, 0
        first = (last if offline else index == 0) and not learned
        if (learned or not last) and not offline:
            due = yield from self.decider.due(self, incoming, first or bool(incoming.asks))
        over = self.over
        again = (over if learned else self.finished) and due > 0 and self.decider.decides
        if first or incoming.asks and over or again:  # an answer begins
            self.finished, self.num_spoken, header = False, 0, self.markup.header
            self.decider.begin_answer(header)
            self.pending.append((list(header), self.cursor.say(len(header), index, Kind.HEADER)))
            self.chooser.see(header)
            self._note(header)
        budget = self.chooser.choose.left(self.num_spoken)
        if last:
            self.chooser.see(self.markup.suffix)
        if self.thinking is not None:
            self.thinking.begin_step(index, last)
        if not self.while_speaking:
            yield from self._think()
        yield from self._speak(index, budget if last else min(due, budget), last)
        yield from self._think()
        yield from self._tell(wait=True)
        self.speaking = False

    @property
    def over(self) -> bool:
        """No answer is under way."""
        return self.finished or self.chooser.choose.left(self.num_spoken) <= 0

    def _speak(self, index: int, budget: int, last: bool) -> Run:
        newest = min(self.arrived_s)
        while budget > 0 and not self.finished:
            self._listen()
            if self.paused or self.stopped:
                return
            if self.pending:  # else the last row that was watched predicts the next token
                self.logits = yield from self._predict(*self._take_words(index), budget)
            row = self.cursor.say(1, index)  # on a GPU the logits are still being computed
            token = yield from self._choose(last or self.schedule.learned or self.chooser.choose.stop_early)
            yield from self._tell(wait=True)  # the choice has waited for all that was fed
            if self.keep.weighs:
                self.weights.say(index, self.logits, token)
            self.pending.append(([token], row))
            self._note([token])
            budget -= 1
            self.num_spoken += 1
            self.finished = token in self._stops
            t_s = self.clock.now()
            self.decider.said(token, self.logits, t_s)
            yield Spoken(index, token, newest, self.arrived_s[newest], t_s)

    def _think(self) -> Run:
        """What is due to be thought, alone."""
        if self.thinking is not None:
            yield from self.thinking.alone()

    def _view(self, ids) -> None:
        """These are in view for ever, each of which the penalty counts once."""
        self._asked += sorted(set(ids).difference(self._asked))
        self.chooser.see(ids)

    def _note(self, ids) -> None:
        """Remember what was said, where some of it will be forgotten."""
        if self._forgetting is not None:
            self._forgetting.say(ids)

    def _predict(self, rows: Layout, embeds: torch.Tensor, feeds_left: int) -> Run:
        """Feed text rows; return the logits after the last.

        Args:
            rows, embeds: (Q,) Layout, (Q, D).
            feeds_left: feeds of these at this step, this one included, unless the answer ends before.
        """
        return (yield from self._feed(rows, embeds))

    def _feed(self, rows: Layout, embeds: torch.Tensor, decides: int | None = None) -> Run:
        """Feed rows of which the last one is text, and where a thought is due its rows in the same forward, and choose
        it. Returns what a Feed of them alone does."""
        if self.thinking is None or not self.thinking.rides:
            return (yield Feed(self.cache, rows, embeds, decides=decides))
        return (yield from self.thinking.beside(rows, embeds, decides))

    def _take_words(self, index: int) -> tuple[Layout, torch.Tensor]:
        """Rows and embeddings of what was said and is to be fed at step `index`, where the last row predicts."""
        ids, rows = self._take_pending()
        if len(ids) > 1:
            rows.sees[:-1] = rows.step[1:]  # a row sees as far as what it predicts
        rows.sees[-1] = index
        return rows, self._embed(ids)

    # ---- keeping ----------------------------------------------------------------------------------------------------

    def _new_cache(self):
        return new_cache(self.model, self.keep, self.keep.forgets, self.keep.moves)

    def state(self) -> dict:
        return super().state() | {
            "cursor": self.cursor.state(),
            "seen": self.seen.state(),
            "decider": self.decider.state(),
            "forgetting": None if self._forgetting is None else self._forgetting.state(),
            "thinking": None if self.thinking is None else self.thinking.state(),
        }

    def restore(self, state: dict) -> None:
        super().restore(state)
        self.cursor.load_state(state["cursor"])
        self.seen.load_state(state["seen"])
        self.decider.load_state(state["decider"])
        if self._forgetting is not None:
            self._forgetting.load_state(state["forgetting"])
        if (self.thinking is None) != (state.get("thinking") is None):
            raise UserError("this state is not of this kind of session: one of the two thinks, the other does not")
        if self.thinking is not None:
            self.thinking.load_state(state["thinking"])

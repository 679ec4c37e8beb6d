"""What a session's SPEAK policy is told after each step, beside its number and arrival, and only where it needs it.

Change: the share of tokens whose pixels differ from those of the step before. Clock: the time that is left, and what a
token took. Probe: the newest words read anew as if they were said now, by one forward that changes nothing. Not yet:
the chance that it is too early to speak, which the model was trained to tell after the last token of a step.
"""

import math
from copy import deepcopy
from dataclasses import replace

import torch

from swwatch.engine.choose import why_not_fast
from swwatch.engine.incoming import Incoming
from swwatch.engine.requests import Feed, Run
from swwatch.engine.trace import Decided
from swwatch.errors import UserError
from swwatch.model.cache import Mark
from swwatch.policies.see.dtd import DtdPixels, DtdState
from swwatch.policies.speak.policy import CHANGE, CLOCK, NOT_YET, PROBE, Deciding, Speak
from swwatch.rules.chosen import chosen
from swwatch.rules.schedule import Now
from swwatch.rules.visibility import SAID

TOLD = {
    CHANGE: ("change",),
    CLOCK: ("left_s", "token_s"),
    PROBE: ("perplexity", "said_perplexity"),
    NOT_YET: ("not_yet",),
}


class Decider:
    """One stream under a policy.

    Attributes:
        decides: it does so while it streams.
        listens: to the model's own chance that it is too early to speak.
        words: the tokens said at the newest step at which any were, behind the one before them.
        surprises: of each of them, - log p when it was chosen.
        newest: the token that was said last.
        token_s: what a token took at that step.
    """

    FACTS = ("words", "surprises", "newest", "token_s")

    def __init__(self, policy: Speak):
        self.policy, self._state = policy, policy.begin()
        self.decides, self.listens = isinstance(policy, Deciding), NOT_YET in policy.needs
        self._before = DtdState(DtdPixels())
        self.words: list[int] = []
        self.surprises: list[float] = []
        self.newest: int | None = None
        self.token_s: float | None = None
        self._decided_s, self._num_said = 0.0, 0  # since the newest decision

    def look(self, pixel_values: torch.Tensor, grid: tuple[int, int]) -> float | None:
        """The share of change of the next step, (patches, D) with merged (rows, columns); None: nobody asks for it, or
        there is no step before."""
        if CHANGE not in self.policy.needs:
            return None
        first, total = self._before.before is None, grid[0] * grid[1]
        changed = self._before.keep(pixel_values.reshape(total, -1), *grid)
        return None if first else (total if changed is None else len(changed)) / total

    def due(self, session, incoming: Incoming, begins: bool) -> Run:
        """Ask the policy how many tokens are due, once a step is in. Tells Decided where it decides."""
        step, needs = incoming.index, self.policy.needs
        now = Now(step, session.arrived_s[min(session.arrived_s)], begins)  # a late end has none of its own
        if CHANGE in needs:
            now = replace(now, change=incoming.change)
        if CLOCK in needs:
            left_s = now.at_s + session.model.settings.step_s - session.clock.now()
            now = replace(now, left_s=left_s, token_s=self.token_s)
        if PROBE in needs and self.words and not begins:
            perplexity = yield from self._perplexity(session, step)
            self.surprises = _numbers(self.surprises)
            now = replace(now, perplexity=perplexity, said_perplexity=_perplexity(self.surprises))
        if self.listens:
            chance = None if incoming.not_yet is None else float(incoming.not_yet)
            now = replace(now, going=not session.over, not_yet=chance)
        tokens = self._state.budget(now)
        if not self.decides:
            return tokens
        self._decided_s, self._num_said = session.clock.now(), 0
        why = {name: getattr(now, name) for need in needs for name in TOLD[need]}
        yield Decided(step, tokens, self._decided_s, why)
        return tokens

    def begin_answer(self, header: tuple[int, ...]) -> None:
        """A new answer begins behind these tokens."""
        self.newest = header[-1]

    def said(self, token: int, logits: torch.Tensor, t_s: float) -> None:
        """A token was chosen after (V,) logits, and emitted at `t_s`."""
        self._num_said += 1
        if CLOCK in self.policy.needs:
            self.token_s = (t_s - self._decided_s) / self._num_said
        if PROBE in self.policy.needs:
            if self._num_said == 1:
                self.words, self.surprises = [self.newest], []
            self.words.append(token)
            self.surprises.append(-logits.log_softmax(-1)[token])  # read when they are asked for, all at once
        self.newest = token

    def _perplexity(self, session, step: int) -> Run:
        """Of the newest words, if they were said at `step`.

        The last of them has not been fed yet and predicts none of them, so that the newest rows of what was said are
        those that predict them. They are fed anew in their own places, where they see as far as `step`.
        """
        cache, count = session.cache, len(self.words) - 1
        said = cache.tokens[SAID]
        rows = replace(said[-count:], sees=torch.full((count,), step))
        held, lengths = cache.state(), {stream: len(tokens) for stream, tokens in cache.tokens.items()}
        cache.restore(Mark(lengths | {SAID: lengths[SAID] - count}, cache.num_fed, cache.evictions))
        logits = yield Feed(cache, rows, session.model.embed(self.words[:-1]), range(count))
        cache.load_state(held)
        session.num_probed += count
        words = chosen(self.words[1:], logits.device)
        return _perplexity((-logits.log_softmax(-1).gather(1, words[:, None])[:, 0]).tolist())

    def check(self, session) -> None:
        """Raises UserError: the session cannot speak so."""
        self.policy.check(session.variant)
        self.policy.check_trained(session.model.settings.schedule, "the model")
        self.policy.check_keep(session.keep)
        refused = why_not_fast(session.variant.name, schedule=self.policy)
        if refused is not None and session.model.static:
            raise UserError(refused)

    # ---- keeping ----------------------------------------------------------------------------------------------------

    def state(self) -> dict:
        """What later decisions depend on, in numbers, texts, lists and tensors."""
        own = {name: value for name, value in vars(self._state).items() if name != "policy"} if self.decides else {}
        before = {name: value for name, value in vars(self._before).items() if name != "policy"}
        self.surprises = _numbers(self.surprises)
        facts = {name: getattr(self, name) for name in self.FACTS}
        return deepcopy({"facts": facts, "own": own, "before": before})

    def load_state(self, state: dict) -> None:
        """Go on from a `state` of the same policy."""
        state = deepcopy(state)
        vars(self).update(state["facts"])
        vars(self._before).update(state["before"])
        if self.decides:
            vars(self._state).update(state["own"])


def _numbers(values: list[float | torch.Tensor]) -> list[float]:
    return torch.stack(values).tolist() if values and torch.is_tensor(values[0]) else values


def _perplexity(surprises: list[float]) -> float:
    return math.exp(sum(surprises) / len(surprises))

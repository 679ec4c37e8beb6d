"""What a session thinks beside its words: notes in a stream of their own, by a THINK policy. See rules.visibility.

A thought is chosen like a word, from rows of its own. What is due at a step is settled when the step is in. Engines
that watch while they speak let its rows ride in the feeds of the words; serial thinks first. No word of the same step
can tell the difference.
"""

from dataclasses import replace

import torch

from swwatch.engine.choose import why_not_fast
from swwatch.engine.keeping import hold
from swwatch.engine.requests import Choose, Feed, Run
from swwatch.engine.trace import Reflected
from swwatch.errors import UserError
from swwatch.policies.chooser import Chooser
from swwatch.policies.think import Notes
from swwatch.rules.layout import Kind, Layout
from swwatch.rules.visibility import THOUGHT


class Thinking:
    """One stream of thoughts.

    Attributes:
        chooser: of its tokens; the penalty counts what was thought, and nothing else.
        pending: thought, but not yet fed to the LLM: ids and layout.
        step: that is in; due: tokens that are to be thought at it yet.
        num_thought: in this note; over: none is under way.
    """

    FACTS = ("step", "due", "num_thought", "over")

    def __init__(self, session, policy: Notes):
        """
        Args:
            session: a session.Session, without a policy of its own for this.
            policy: how much is thought.
        Raises:
            UserError: the session cannot think.
        """
        policy.check(session.variant, session.keep)
        refused = why_not_fast(session.variant.name, think=policy)
        if refused is not None and session.model.static:
            raise UserError(refused)
        self.session, self.policy = session, policy
        words = session.chooser
        choose = replace(words.choose, max_new_tokens=policy.limit)
        self.chooser = Chooser(choose, len(words.seen), words.seen.device, stops=words.stops)
        self.pending: list[tuple[list[int], Layout]] = []
        self.step = self.due = self.num_thought = 0
        self.over = True

    def begin_step(self, step: int, last: bool) -> None:
        """A step is in: old thoughts go, and what is due now is settled. At the last step nothing is."""
        cache, self.step, self.due = self.session.cache, step, 0
        stays = self.policy.stays(len(cache.tokens[THOUGHT])) if THOUGHT in cache.tokens else None
        if stays is not None:
            cache.keep(THOUGHT, stays)
        if last:
            return
        if self.policy.begins(step, self.session.model.settings.step_s, self.over):
            note = self.session.markup.note
            self.pending.append((list(note), self.session.cursor.say(len(note), step, Kind.NOTE)))
            self.chooser.see(note)
            self.over, self.num_thought = False, 0
        if not self.over:
            self.due = min(self.policy.k, self.policy.limit - self.num_thought)

    def held(self) -> dict[int, Layout]:
        """THOUGHT -> what is in the cache and then what is pending, if there is anything."""
        parts = [*filter(None, [self.session.cache.tokens.get(THOUGHT)]), *(rows for _, rows in self.pending)]
        return {THOUGHT: Layout.cat(parts)} if parts else {}

    def move(self, texts: dict[int, Layout]) -> None:
        """Let what is `held` stand where it stands in `texts` now."""
        where = {name: text.position_ids for name, text in texts.items() if name == THOUGHT}
        self.pending = hold(self.session.cache, self.pending, {}, where, THOUGHT)

    @property
    def rides(self) -> bool:
        """Rows wait to be fed, for a thought that is due."""
        return bool(self.due and self.pending)

    def take(self) -> tuple[Layout, torch.Tensor]:
        """Rows and embeddings of what is fed now, of which the last row predicts."""
        ids, rows = [token for ids, _ in self.pending for token in ids], Layout.cat([rows for _, rows in self.pending])
        rows.sees[:] = torch.cat([rows.step[1:], torch.tensor([self.step])])  # as far as what it predicts
        self.pending = []
        return rows, self.session._embed(ids)

    def alone(self) -> Run:
        """Think what is due at this step yet."""
        while self.due and not self.session.stopped:
            yield from self.choose((yield from self.session._predict(*self.take(), self.due)))
            self.session._listen()

    def beside(self, rows: Layout, embeds: torch.Tensor, decides: int | None) -> Run:
        """Feed what waits in the forward of other rows, of which the last one is text, and think the next token.
        Returns what a Feed of those alone does."""
        more, seen = self.take()
        both = range(len(rows) - 1, len(rows) + len(more), len(more))  # the last row of each
        fed = Layout.cat([rows, more]), torch.cat([embeds, seen])
        answer = yield Feed(self.session.cache, *fed, both, decides)
        (word, thought), *chance = (answer,) if decides is None else answer
        yield from self.choose(thought)
        return word if decides is None else (word, *chance)

    def choose(self, logits: torch.Tensor) -> Run:
        """Think the next token after (V,) logits. Tells Reflected."""
        row = self.session.cursor.say(1, self.step, Kind.THOUGHT)
        token = yield from self._pick(logits)
        self.pending.append(([token], row))
        self.due, self.num_thought = self.due - 1, self.num_thought + 1
        self.over = token in self.chooser.stops or self.num_thought >= self.policy.limit
        if self.over:
            self.due = 0
        now_s, begins = self.session.clock.now(), self.num_thought == 1
        yield Reflected(self.step, token, self.step, self.session.arrived_s[self.step], now_s, begins)

    def _pick(self, logits: torch.Tensor) -> Run:
        return (yield Choose(self.chooser, logits, True))

    def state(self) -> dict:
        """What later thoughts depend on, in numbers, lists and tensors."""
        facts = {name: getattr(self, name) for name in self.FACTS}
        pending = [(list(ids), {name: c.clone() for name, c in vars(rows).items()}) for ids, rows in self.pending]
        return {"facts": facts, "pending": pending, "chooser": self.chooser.state()}

    def load_state(self, state: dict) -> None:
        """Go on from a `state` of the same policy."""
        vars(self).update(state["facts"])
        self.pending = [(list(ids), Layout(**rows)) for ids, rows in state["pending"]]
        self.chooser.load_state(state["chooser"])

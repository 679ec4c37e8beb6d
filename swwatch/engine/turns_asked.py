"""Questions in turns of their own, to a stream in turns: answered, or only probed, about what has been watched."""

from dataclasses import replace

from swwatch.data.turns.prompt import Turns
from swwatch.engine.requests import Run
from swwatch.engine.source import Order
from swwatch.engine.trace import Asked
from swwatch.engine.turns_forgetting import ForgetfulTurns
from swwatch.errors import UserError
from swwatch.rules.spans import Part, Span
from swwatch.rules.visibility import WATCHED


class AskedTurns(ForgetfulTurns):
    """The part of a TurnSession that is asked."""

    turns: Turns

    def answer(self, question: str, max_new_tokens: int = 512) -> Run:
        """A turn of text alone about what has been watched: a question and its whole answer.

        Raises:
            UserError: nothing has been watched yet, or the question holds chat markup.
        """
        self._refuse_unwatched()
        how = self.chooser.choose
        self.chooser.choose = replace(how, max_new_tokens=max_new_tokens, threshold=None, threshold_step=0.0)
        try:
            yield from self._reply(question)
        finally:
            self.chooser.choose = how

    def probe(self, question: str, beginning: tuple[int, ...]) -> Run:
        """What would follow a question and the beginning of its answer: (V,) logits. The stream stays as it is.

        Nothing is looked at again and nothing is forgotten for it.
        """
        self._refuse_unwatched()
        snapshot, number, last = self.state(), self.num_rounds, self._watched_s
        self._unthink()
        turn = self.turns.turn(number, last, last, None, question)
        yield from self._recall([span for span in turn if span.part is Part.QUERY])
        spans = [*self._closing(), *turn]
        logits = yield from self._read([*spans, Span(Part.ANSWER, beginning, None, number, last, last)])
        self.restore(snapshot)
        return logits

    def _closing(self) -> list[Span]:
        """What closes the turn before, if its form has such; it is forgotten with that turn's answer."""
        if not self.context or self.context[-1].part is not Part.ANSWER:
            return []
        answer = self.context[-1]
        close = self.turns.close(answer.round, answer.start_s, answer.end_s)
        return [close] if len(close) else []

    def _refuse_unwatched(self) -> None:
        if not self.num_rounds:
            raise UserError("nothing has been watched yet: ask once the stream has begun")

    @property
    def _watched_s(self) -> float:
        """Where what has been watched ends."""
        return max(span.end_s for span in self.context)

    @property
    def stopping(self) -> bool:
        """Nothing more is to be watched, said or thought."""
        return self.stopped or Order.STOP in self._heard

    def _hears_stop(self) -> bool:
        """Whether it is `stopping`, in the middle of a turn, where all other orders wait for its end."""
        self._heard += self._new_orders()
        return self.stopping

    # ---- systems that think -----------------------------------------------------------------------------------------

    @property
    def _is_asked(self) -> bool:
        """Something waits to be asked about what has been watched, now that no step waits. A pause ends first."""
        may = self.system.thinks and self.num_rounds > 0 and not self._waiting and not self.paused
        may = may and not self.stopping
        return may and bool(self.asks or self.ending and self.query)

    def _ask_now(self) -> Run:
        """Put what waits to be asked, if anything does, to what has been watched."""
        if not self._is_asked:
            return
        questions = [ask.text for ask in self.asks] or [self.query]
        if self.asks:
            self.asks = []
        else:
            self.query = None
        for question in questions:
            yield Asked(self.num_steps, question, self.clock.now(), **self._told())
        yield from self._reply("\n".join(questions))

    def _reply(self, question: str) -> Run:
        """Answer a question about what has been watched in a turn of its own: aside, where the system does so. Another
        one that waits still does."""
        last, waits, self.speaking = self._watched_s, self.query, False
        snapshot = self.state() if self.system.aside else None
        self._unthink()
        self.query = question
        try:
            yield from self._converse(last, last, None, None, (), False)
        finally:
            if snapshot is not None:
                self.restore(snapshot)
            self.query = waits

    def _unthink(self) -> None:
        """Let go of the thought about the newest video, where questions are answered aside: what is left ends with the
        user turn that shows it."""
        if not self.system.aside or self.context[-1].part is not Part.ANSWER:
            return
        left = next(i for i, span in reversed(list(enumerate(self.context))) if span.part is Part.TAIL) + 1
        left = self.context[:left]
        self._hold(left, range(sum(map(len, left))))
        self.pending = []
        self.next_position = self.cache.tokens[WATCHED].position_ids.max().item() + 1

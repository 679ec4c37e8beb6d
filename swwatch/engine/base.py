"""What every form of session has in common, whatever surrounds a step of video and whatever ends an answer.

A session is ONE coroutine, `run(source)`: it yields requests to its driver (see requests.py) and what it has to tell
(see trace.py). It polls its source, takes orders, keeps what was said until it is fed, and asks for the next token.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch

from swwatch.engine.keeping import Weights
from swwatch.engine.requests import Choose, Run, Wait
from swwatch.engine.source import Ask, Order, Source, Step
from swwatch.engine.trace import DeviceMoment, SimulatedClock, Watched
from swwatch.errors import UserError
from swwatch.model.protocols import SessionCache, StreamingModel
from swwatch.policies.choose import Choosing
from swwatch.policies.chooser import Chooser
from swwatch.rules import variants
from swwatch.rules.layout import Layout
from swwatch.rules.patch import Patch
from swwatch.rules.schedule import FPS


class BaseSession(ABC):
    """One stream.

    Attributes:
        name: of the engine.
        chooser: of its tokens; `chooser.choose` is the policy.
        cache: what was fed.
        pending: said, but not yet fed to the LLM: ids and layout.
        logits: (V,) after the newest row, when that row predicts the next token.
        asks: questions that were heard and have had no effect yet.
        closed: nothing more is watched.
    """

    name = "serial"

    def __init__(self, model: StreamingModel, *, choose: Choosing, clock=None, ellipsis: int | None = None):
        """
        Args:
            clock: has now() and arrive(at_s) in stream seconds; by default a SimulatedClock.
            ellipsis: id of " ...", where silence is a word.
        """
        self.model, self.markup = model, model.markup
        self.variant = variants.get(model.settings.variant)
        self.clock = clock or SimulatedClock()
        self._stops, self._dtype = stop_ids(model), model.dtype
        vocab_size, choose = model.config.text_config.vocab_size, choose.settled(model.generation_config)
        self.chooser = Chooser(choose, vocab_size, model.device, stops=self._stops, ellipsis=ellipsis)
        self.cache = self._new_cache()
        self.pending: list[tuple[list[int], Layout]] = []
        self.logits: torch.Tensor | None = None
        self.asks: list[Ask] = []
        self._heard: list[Ask | Order] = []  # sooner than they take effect
        self.weights = Weights()
        self.closed = self.speaking = self.paused = self.stopped = False
        self._untold: list[tuple[Watched, DeviceMoment]] = []  # the device may not have come to it
        self._source: Source | None = None

    # ---- the whole --------------------------------------------------------------------------------------------------

    def run(self, source: Source) -> Run:
        """Watch and speak until the source ends, or STOP.

        Yields:
            Requests, and Watched, Asked and Spoken; Said at the end of a chat turn.
        Raises:
            UserError: the stream ended before its first frame.
        """
        self._source = source
        yield from self.begin()
        while not self.closed:
            self._listen()
            if self.stopped:
                return
            arrived = self._next()
            if arrived is None:
                yield Wait(source)
            else:
                yield from self.advance(arrived)

    @abstractmethod
    def begin(self) -> Run:
        """What precedes the first step. Nothing where the session goes on from a state."""

    @abstractmethod
    def _next(self) -> Any | None:
        """What has arrived, or the end; None: it has not come yet."""

    @abstractmethod
    def advance(self, arrived: Any) -> Run:
        """Take in what `_next` returned, and speak."""

    @abstractmethod
    def _new_cache(self) -> SessionCache:
        """An empty cache."""

    def arrival_s(self, step: int, nominal_s: float) -> float:
        """When a step arrives, given when it would from an undisturbed source; seconds of stream time."""
        return nominal_s

    # ---- what comes in ----------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Take orders."""
        heard, self._heard = [*self._heard, *self._new_orders()], []
        for order in heard:
            if isinstance(order, Ask):
                self.asks.append(order)
            elif order is Order.STOP:
                self.stopped = True
            else:
                self.paused = order is Order.PAUSE

    def _new_orders(self) -> list[Ask | Order]:
        return self._source.orders() if self._source is not None else []

    def _tell_watched(
        self, number: int, step: Step | None, patch: Patch | None = None, grid: tuple[int, int] | None = None
    ) -> Run:
        """The last rows of a step have been fed: tell it, on a GPU when these have been computed.

        Args:
            grid: its rows and columns, where it has no patch.
        """
        if step is not None:
            what = (0, grid) if patch is None else (patch.num_dropped, (patch.rows, patch.columns), patch.kept)
            watched = Watched(number, step.arrival_s, 0.0, *what)
            self._untold.append((watched, DeviceMoment(self.model.device, self.clock)))
        yield from self._tell(wait=False)

    def _tell(self, wait: bool) -> Run:
        """Tell of the steps that are in by now, or wait for them."""
        while self._untold and (wait or self._untold[0][1].passed):
            watched, moment = self._untold.pop(0)
            yield replace(watched, t_s=moment.at_s())

    # ---- what goes out ----------------------------------------------------------------------------------------------

    @property
    def num_pending(self) -> int:
        """Tokens that were said and not fed yet."""
        return sum(len(ids) for ids, _ in self.pending)

    def _choose(self, may_stop: bool) -> Run:
        return (yield Choose(self.chooser, self.logits, may_stop))

    def _take_pending(self) -> tuple[list[int], Layout]:
        """What was said and is fed now."""
        ids = [token for ids, _ in self.pending for token in ids]
        rows = [rows for _, rows in self.pending]
        self.pending = []
        return ids, Layout.cat(rows) if len(rows) > 1 else rows[0]

    def _embed(self, ids: Iterable[int]) -> torch.Tensor:
        return self.model.embed(ids).to(self._dtype)

    # ---- keeping ----------------------------------------------------------------------------------------------------

    FACTS: tuple[str, ...] = ("paused", "stopped", "closed")  # attributes of numbers and texts, kept as they are

    def state(self) -> dict:
        """All that a session is between two steps, in dicts, lists, numbers, texts and tensors: for `restore`, or for
        torch.save, which loads it again with weights_only. What the session does later does not change it. The clock
        is no part of it.

        Raises:
            ValueError: the words of a step are being said.
        """
        if self.speaking:
            raise ValueError("the tokens of the step before have not all been taken: exhaust its generator first")
        facts = {name: getattr(self, name) for name in self.FACTS}
        facts = {name: list(value) if isinstance(value, list) else value for name, value in facts.items()}
        return {
            "variant": self.variant.name,
            "fps": self.model.settings.fps,
            "facts": facts,
            "cache": self.cache.state(),
            "weights": dict(self.weights.losses),
            "pending": [(list(ids), _copied(vars(rows))) for ids, rows in self.pending],
            "asks": [(ask.ids, ask.text) for ask in self.asks],
            "chooser": self.chooser.state(),
            "logits": self.logits,
        }

    def restore(self, state: dict) -> None:
        """Go on from a `state` of a session of the same model that was made with the same arguments.

        Raises:
            UserError: the state is of another variant, frame rate or version.
        """
        if state.get("variant") != self.variant.name or set(state.get("facts", ())) != set(self.FACTS):
            raise UserError(
                f"this state is of a session of {state.get('variant')!r} or of another version of swwatch, and cannot "
                f"be continued by one of {self.variant.name!r}: begin a new one"
            )
        fps = self.model.settings.fps
        if state.get("fps", FPS) != fps:
            raise UserError(f"this state is of a session at {state['fps']:g} frames a second, and not at {fps:g}")
        for name, value in state["facts"].items():
            setattr(self, name, list(value) if isinstance(value, list) else value)
        self.cache = None  # whose memory may be needed for the next
        self.cache = self._new_cache()
        self.cache.load_state(state["cache"])
        self.weights.losses = dict(state["weights"])
        self.pending = [(list(ids), Layout(**rows)) for ids, rows in state["pending"]]
        self.asks = [Ask(tuple(ids), text) for ids, text in state["asks"]]
        self.chooser.load_state(state["chooser"])
        self.logits = state["logits"]


def _copied(columns: dict) -> dict:
    """For a feed writes into the columns of its rows."""
    return {name: column.clone() for name, column in columns.items()}


def stop_ids(model: StreamingModel) -> set[int]:
    """Ids that end an answer: <|im_end|>, and what the checkpoint's generation_config names."""
    ends = model.generation_config.eos_token_id
    return {model.markup.im_end, *([] if ends is None else ends if isinstance(ends, list) else [ends])}

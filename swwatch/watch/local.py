"""A model in this process narrates a live source: frames in, a server's messages out."""

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from swwatch.client import protocol
from swwatch.data.live.sources import frames_of
from swwatch.engine.door import about
from swwatch.errors import UserError
from swwatch.live.messages import Messages
from swwatch.live.stage import Capacity, Ended, Stage
from swwatch.model.loading import Loaded

LONGEST_S = 1800  # of video on a GPU, where memory is set aside beforehand; elsewhere there is no limit
MOST_TOKENS = 4096


class LocalNarrator:
    """One session on a stage of its own. A context manager.

    Attributes:
        about: what narrates, in words; notes: what the user should know; step_s: seconds of a step.
    """

    def __init__(
        self,
        loaded: Loaded,
        *,
        question: str | None = None,
        engine: str = "auto",
        max_new_tokens: int = MOST_TOKENS,
        keeps_up: bool = True,
        notes: Iterable[str] = (),
        **policies,
    ):
        """
        Args:
            question: by default the evaluation question, or the chat system's own.
            max_new_tokens: the most of an answer.
            keeps_up: steps that the model is too slow for are dropped; else the source waits.
            policies: keep and choose, in place of the checkpoint's own.
        Raises:
            UserError: the engine cannot run the variant, or no memory is left.
        """
        self.notes, self.step_s = list(notes), loaded.settings.step_s
        self._stage = Stage(loaded, engine=engine, max_sessions=1, capacity=Capacity(LONGEST_S, max_new_tokens))
        try:
            self._session = self._stage.open(
                question=question,
                limit=max_new_tokens,
                policy="drop_oldest" if keeps_up else "block",
                **policies,
            )
        except BaseException:
            self._stage.close()
            raise
        why = f"engine {self._stage.engine}: {self._stage.why}"
        self.about = f"{about(loaded.settings, question)}\n{why}"
        self.ask, self.pause = self._session.ask, self._session.pause
        self.resume, self.end = self._session.resume, self._session.end
        self._messages, self._stopped = Messages(), False

    def stop(self) -> None:
        """End now."""
        self._stopped = True
        self._session.stop()

    def watch(self, frames: Iterable[tuple[float, np.ndarray]]) -> Iterator[protocol.Event]:
        """Feed a source from a thread and iterate over the events, numbered, `End` as the last.

        Args:
            frames: (seconds of the stream, (H, W, 3) uint8 RGB), at any rate.
        Raises:
            UserError: the session's own, or once the rest is said what `frames` raises.
        """
        failures: list[BaseException] = []

        def push() -> None:
            try:
                for timestamp_s, frame in frames:
                    if self._session.push(timestamp_s, frame).reason == "ended":
                        break
            except BaseException as error:  # told where the events are read
                failures.append(error)
            self._session.end()

        threading.Thread(target=push, name="watch", daemon=True).start()
        try:
            for number, event in enumerate(self._events()):
                yield self._message(event).model_copy(update={"n": number})
        except UserError:
            if failures:  # why there was nothing to watch is the better reason
                raise failures[0] from None
            raise
        if failures:
            raise failures[0]

    def _events(self) -> Iterator:
        while events := self._session.read():
            yield from events

    def _message(self, event) -> protocol.Event:
        if not isinstance(event, Ended):
            return self._messages.message(event)
        if event.error is not None:
            raise event.error
        return protocol.End(reason="stopped" if self._stopped else "finished", tokens=self._messages.num_tokens)

    def summary(self) -> str:
        """What came in and what became of it."""
        stats = self._session.stats()
        frames = f"frames {stats.frames_in}, dropped {stats.frames_dropped}"
        return f"{frames}; seconds watched {stats.steps_watched * self.step_s:g}; tokens {stats.tokens}"

    def __enter__(self) -> "LocalNarrator":
        return self

    def __exit__(self, *_) -> None:
        self._stage.close()


def watch(loaded: Loaded, source: str | Path, *, realtime: bool = True, **options) -> Iterator[protocol.Event]:
    """Narrate a live source, as `swwatch watch` does.

    Args:
        source: a file, an http(s) or rtsp(s) address, or camera:0.
        realtime: a file plays at its own pace, and what the model is too slow for is dropped.
        options: of LocalNarrator: question, engine, max_new_tokens.
    Yields:
        Messages of docs/protocol.md: Watched, Token, Decided, Turn, Asked, Dropped, and End as the last.
    Raises:
        UserError: the source cannot be read.
    """
    with (
        LocalNarrator(loaded, keeps_up=realtime, **options) as narrator,
        frames_of(str(source), realtime=realtime) as frames,
    ):
        yield from narrator.watch(frames)

"""A model in this process for `swwatch watch`, with the face of a client: frames in, a server's messages out."""

import threading
from collections.abc import Iterable, Iterator

import numpy as np

from swwatch.client import protocol
from swwatch.data.prompt import load_prompts
from swwatch.errors import UserError
from swwatch.live.stage import Asked, Dropped, Ended, Room, Stage, Token, Watched
from swwatch.model.loading import load
from swwatch.policies.choose import Greedy
from swwatch.policies.speak import parse_schedule
from swwatch.toy.quickstart import toy_checkpoint

LONGEST_S = 1800  # of video on a GPU, where memory is set aside beforehand; elsewhere there is no limit


class Here:
    """One session on a stage of its own. A context manager.

    Attributes:
        about: what narrates, in words; notes: what the user should know.
    """

    def __init__(self, args):
        """Args: the flags of `swwatch watch`."""
        models, variant, self.notes = ([args.model], args.variant, []) if args.model else toy_checkpoint()
        variant = args.variant or variant
        how = {"device": args.device, "dtype": args.dtype, "attention": args.attention, "see": args.see}
        loaded = load(models[0], variant=variant, **how)
        schedule = parse_schedule(args.schedule or loaded.settings.schedule)
        question = args.question or load_prompts().eval_question
        room = Room(LONGEST_S, args.max_new_tokens)
        self._stage = Stage(loaded, engine=args.engine, max_sessions=1, room=room)
        try:
            self._session = self._stage.open(
                question=question,
                schedule=schedule,
                choose=Greedy(max_new_tokens=args.max_new_tokens),
                policy="drop_oldest" if args.realtime else "block",
            )
        except BaseException:
            self._stage.close()
            raise
        self.ask, self.pause = self._session.ask, self._session.pause
        self.resume, self.end = self._session.resume, self._session.end
        self.about = (
            f"{loaded.settings.variant}, {schedule} | {question}\nengine {self._stage.engine}: {self._stage.why}"
        )
        self._tokens = self._lost = 0
        self._stopped = False

    def stop(self) -> None:
        """End now."""
        self._stopped = True
        self._session.stop()

    def watch(self, frames: Iterable[tuple[float, np.ndarray]]) -> Iterator[protocol.Event]:
        """Feed a source from a thread and iterate over the events, numbered, `End` as the last.

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
            yield from self._numbered()
        except UserError:
            if failures:  # why there was nothing to watch is the better reason
                raise failures[0] from None
            raise
        if failures:
            raise failures[0]

    def _numbered(self) -> Iterator[protocol.Event]:
        number = 0
        while events := self._session.read():
            for event in events:
                if isinstance(event, Ended) and event.error is not None:
                    raise event.error
                yield self._told(event).model_copy(update={"n": number})
                number += 1

    def _told(self, event) -> protocol.Event:
        """As a server tells it."""
        match event:
            case Token():
                index, self._tokens = self._tokens, self._tokens + 1
                named = ("text", "step", "newest_visible_step", "t_frame_s", "t_emit_s")
                lag_s = event.t_emit_s - event.t_frame_s
                return protocol.Token(**{name: getattr(event, name) for name in named}, lag_s=lag_s, index=index)
            case Watched():
                return protocol.Watched(step=event.step, arrival_s=event.arrival_s, t_s=event.t_s)
            case Asked():
                return protocol.Asked(step=event.step, question=event.text, t_s=event.t_s)
            case Dropped():
                self._lost += event.steps
                return protocol.Dropped(steps=event.steps, total=self._lost, reason=event.reason)
            case Ended():
                return protocol.End(reason="stopped" if self._stopped else "finished", tokens=self._tokens)
        raise TypeError(f"no message for {type(event).__name__}")

    def summary(self) -> str:
        """What came in and what became of it."""
        stats = self._session.stats()
        return (
            f"frames {stats.frames_in}, dropped {stats.frames_dropped}; seconds watched {stats.steps_watched}; "
            f"tokens {stats.tokens}"
        )

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *_) -> None:
        self._stage.close()

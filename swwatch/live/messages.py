"""What a live session tells, in the messages of the live protocol: for a server, and for a model in this process."""

from swwatch.client import protocol
from swwatch.engine.trace import Decided
from swwatch.live.stage import Asked, Dropped, Thought, Token, Turn, Watched

COUNTS = ("num_tokens", "num_turns", "num_dropped")


class Messages:
    """Of one session.

    Attributes:
        num_tokens, num_turns, num_dropped: tokens said, turns ended and steps lost so far.
    """

    def __init__(self):
        self.num_tokens = self.num_turns = self.num_dropped = 0

    def message(self, event: Token | Thought | Turn | Watched | Decided | Asked | Dropped) -> protocol.Event:
        """The message of an event, without its number."""
        match event:
            case Token():
                self.num_tokens += 1
                names = ("text", "step", "newest_visible_step", "t_frame_s", "t_emit_s")
                facts = {name: getattr(event, name) for name in names}
                lag_s = event.t_emit_s - event.t_frame_s
                return protocol.Token(**facts, lag_s=lag_s, index=self.num_tokens - 1)
            case Thought():
                names = ("text", "begins", "step", "newest_visible_step", "t_frame_s", "t_emit_s")
                return protocol.Thought(**{name: getattr(event, name) for name in names})
            case Turn():
                self.num_turns += 1
                return protocol.Turn(turn=self.num_turns - 1, **vars(event))
            case Watched():
                seen = {} if event.kept is None else {"grid": event.grid, "kept": event.kept}
                return protocol.Watched(step=event.step, arrival_s=event.arrival_s, t_s=event.t_s, **seen)
            case Decided():
                return protocol.Decided(step=event.step, tokens=event.num_tokens, t_s=event.t_s, why=event.why)
            case Asked():
                return protocol.Asked(step=event.step, question=event.text, t_s=event.t_s)
            case Dropped():
                self.num_dropped += event.steps
                return protocol.Dropped(steps=event.steps, total=self.num_dropped, reason=event.reason)
        raise TypeError(f"no message for {type(event).__name__}")

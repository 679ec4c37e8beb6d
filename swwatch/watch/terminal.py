"""A terminal in front of a narration: events are shown and written, typed lines are questions, Ctrl-C ends it."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from swwatch.errors import UserError
from swwatch.narrate.latency import kind_of, show_lag


def follow(events: Iterator, out, step_s: float):
    """Show every event of a stream whose steps last `step_s`, and write it. Returns the last one, an End."""
    from swwatch.client.protocol import Event  # pydantic takes longer to import than flags to parse

    end = None
    for event in show_lag(events, step_s, notice=lambda event: notice(event, step_s)):
        if kind_of(event) == "end":
            end = event
        if out and isinstance(event, Event) and event.n is not None:
            print(event.wire(), file=out, flush=True)
    return end


def notice(event, step_s: float) -> str | None:
    """What an event has to say besides words."""
    match kind_of(event):
        case "asked":
            return f"asked, from second {event.step * step_s + 1:g} on: {event.question}"
        case "dropped":
            lost = f"{event.steps * step_s:g} ({event.total * step_s:g} so far)"
            return f"seconds not watched: {lost}: {event.reason}"
        case "error":
            return f"the server says {event.code}: {event.message}"
        case "reconnected":
            return f"connected again after {event.away_s:.1f} s, {event.lost} frames lost"
    return None


def typed_lines():
    """Lines of stdin, through a reader of its own: Python cannot leave while a thread holds sys.stdin's."""
    return open(sys.stdin.fileno(), encoding="utf-8", errors="replace", closefd=False)


def listen(lines, narrator) -> None:
    """Questions and orders, a line each, until there are no more."""
    orders: dict[str, Callable[[], None]] = {
        "/pause": narrator.pause,
        "/resume": narrator.resume,
        "/stop": narrator.stop,
    }
    for line in lines:
        if not (text := line.strip()):
            continue
        try:
            if text.startswith("/") and text not in orders:
                raise UserError(f"{text}: write a question, or one of {', '.join(orders)}")
            orders[text]() if text in orders else narrator.ask(text)
        except UserError as error:  # the narration goes on
            print(f"\n  [{error}]", file=sys.stderr, flush=True)


@contextlib.contextmanager
def interruptible(finish: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C calls `finish`, from a thread; the second one is as ever."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def on_first(*_) -> None:
        signal.signal(signal.SIGINT, before)
        print("\n  [Ctrl-C: no more is watched, the rest is said; again to leave]", file=sys.stderr, flush=True)
        threading.Thread(target=finish, name="finish", daemon=True).start()  # may need a lock that this thread holds

    signal.signal(signal.SIGINT, on_first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def show_reconnect(reconnect) -> None:
    print(f"\n  [the source is lost, trying again: {reconnect.reason}]", file=sys.stderr, flush=True)

"""Narrate a live source: a camera, a stream, a file at its own pace; with a model here or through a running server.

SOURCE is a file, http://, https://, rtsp://, rtsps://, or camera:0. Without --server and --model it takes what
scripts/quickstart.sh has trained, or makes an untrained toy checkpoint.

Ctrl-C ends the watching: the rest of the answer is spoken, and the exit code is 0. A second Ctrl-C leaves at once,
with exit code 130. Other codes: 1 when the server ended the session (idle, limit, shutdown), 2 for what can be put
right.
"""

import argparse
import contextlib
import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

from swwatch.data.live.addresses import locate
from swwatch.data.live.sources import frames_of
from swwatch.errors import UserError
from swwatch.narrate.latency import show_lag
from swwatch.policies.see import SEE, parse_see
from swwatch.policies.speak import FORMS, parse_schedule
from swwatch.policies.table import forms

MOST_TOKENS = 4096
PACKAGES = ("websockets", "pydantic")


def build_parser() -> argparse.ArgumentParser:
    about, _, more = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="swwatch watch", description=about, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="SOURCE", help="a file, an http(s) or rtsp(s) address, or camera:0")
    parser.add_argument(
        "--server", metavar="URL", help="let this server narrate, as `swwatch serve` prints its address"
    )
    parser.add_argument("--token", help="the server's [SWWATCH_TOKEN]")
    parser.add_argument(
        "--remote", action="store_true", help="the server reads SOURCE: an address, or a name in its --files folder"
    )
    parser.add_argument("--model", help="checkpoint folder or hub id (default: the quick start's, or a made toy)")
    parser.add_argument("--variant", help="needed where the checkpoint does not name one; of a server: which of its")
    parser.add_argument("--schedule", help=f"how many words are said when: {FORMS} (default: the checkpoint's own)")
    parser.add_argument("--speak", help="another name of --schedule")
    parser.add_argument(
        "--see", help=f"which video tokens are seen: {forms(SEE)}; needed where the checkpoint does not name it"
    )
    parser.add_argument("--engine", default="auto", help="who watches while words are said (default: auto)")
    parser.add_argument("--question", help="what to ask (default: the evaluation question)")
    parser.add_argument(
        "--ask", action="store_true", help="a line typed meanwhile is a new question; also /pause, /resume, /stop"
    )
    parser.add_argument(
        "--realtime",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="a file plays at its own pace; with --no-realtime as fast as the model here watches it",
    )
    parser.add_argument("--max-new-tokens", type=int, help=f"limit of the whole answer (default: {MOST_TOKENS})")
    parser.add_argument("--jsonl", type=Path, help="write every event here, as messages of docs/protocol.md")
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--dtype", help="float32, bfloat16, ... (default: bfloat16 on cuda, else float32)")
    parser.add_argument("--attention", help="sdpa, eager or flash_attention_2 (default: the fastest that is exact)")
    return parser


def main(argv: list[str]) -> int:
    args = build_parser().parse_args(argv)
    check(args)
    with _open_jsonl(args) as out, There(args) if args.server else _here(args) as narrator:
        for note in narrator.notes:
            print(f"note: {note}")
        print(f"{args.source} | {narrator.about}", end="", flush=True)
        if args.ask:
            threading.Thread(target=listen, args=(_typed(), narrator), name="questions", daemon=True).start()
        frames = None if args.remote else frames_of(args.source, realtime=args.realtime, on_reconnect=_tell_reconnect)
        with frames or nullcontext(), interruptible(narrator.end if frames is None else frames.stop):
            if out:
                out.truncate(0)  # not sooner: a mistake should not cost the events of an earlier run
            try:
                end = follow(narrator.watch(frames), out)
            except UserError:
                print(flush=True)  # words may stand before what is told of it
                raise
        print(narrator.summary(), flush=True)
    if end is not None and end.reason not in ("finished", "stopped"):
        print(f"the server ended the session: {end.reason}", file=sys.stderr)
        return 1
    return 0


def check(args: argparse.Namespace) -> None:
    """Tell mistakes before a model is loaded. Raises UserError."""
    if None not in (args.schedule, args.speak) and args.schedule != args.speak:
        raise UserError("--schedule and --speak are two names of one flag: give one of them")
    args.schedule = args.schedule or args.speak
    for text, policy in ((args.schedule, parse_schedule), (args.see, parse_see)):
        if text is not None:
            policy(text)
    if args.server:
        missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
        if missing:
            raise UserError(f"--server needs {', '.join(missing)}: pip install 'swwatch[serve]'")
        for flag in ("model", "see", "device", "dtype", "attention", "max-new-tokens"):
            if getattr(args, flag.replace("-", "_")) is not None:
                raise UserError(f"--{flag} is for a model here: leave it out with --server")
        if not args.realtime:
            raise UserError("--no-realtime is for a model here: a server keeps to the stream's own pace")
    elif args.remote or args.token:
        raise UserError("--remote and --token are for --server URL")
    if not args.remote:
        locate(args.source)
    if args.jsonl and args.jsonl.resolve() == Path(args.source).resolve():
        raise UserError("--jsonl names the source itself: choose another file")


def _open_jsonl(args: argparse.Namespace):
    try:
        return open(args.jsonl, "a", encoding="utf-8") if args.jsonl else nullcontext()
    except OSError as error:
        raise UserError(f"--jsonl {args.jsonl} cannot be written: {error.strerror}") from error


def _here(args: argparse.Namespace):
    from swwatch.watch.here import Here  # loads torch, which a client has no use for

    if args.max_new_tokens is None:
        args.max_new_tokens = MOST_TOKENS
    return Here(args)


class There:
    """A session on a server, with the face that `Here` has."""

    def __init__(self, args: argparse.Namespace):
        from swwatch.client import Client, File, Url

        self._client = Client(args.server, token=args.token or os.environ.get("SWWATCH_TOKEN"))
        source = None
        if args.remote:
            is_url = "://" in args.source
            source = Url(kind="url", url=args.source) if is_url else File(kind="file", name=args.source)
        how = {"variant": args.variant, "schedule": args.schedule, "question": args.question}
        try:
            self.notes = self._client.info()["notes"]
            opened = self._client.open(source=source, engine=None if args.engine == "auto" else args.engine, **how)
        except BaseException:
            self._client.close()
            raise
        self.about = f"{opened.variant}, {opened.schedule} | {opened.question}\nengine {opened.engine}: {opened.why}"
        self.ask, self.pause, self.resume = self._client.ask, self._client.pause, self._client.resume
        self.stop, self.end = self._client.stop, self._client.end
        self._stats = None

    def watch(self, frames) -> Iterator:
        for event in self._client if frames is None else self._client.watch(frames):
            if event_type(event) == "stats":
                self._stats = event
            yield event

    def summary(self) -> str:
        counts, end, stats = self._client.counts, self._client.end_message, self._stats
        told = f"frames sent {counts.sent}, skipped {counts.skipped}, lost {counts.lost}; dropped there "
        dropped = max(counts.dropped, stats.frames_dropped if stats else 0)
        return f"{told}{dropped}; tokens {end.tokens if end else 0}"

    def __enter__(self) -> "There":
        return self

    def __exit__(self, *_) -> None:
        self._client.close()


def event_type(event) -> str:
    """A message's type; the client's own events have none."""
    return getattr(event, "type", "")


def follow(events: Iterator, out):
    """Show every event and write it. Returns the last one, an End."""
    end = None
    for event in show_lag(events, notice=notice):
        if event_type(event) == "end":
            end = event
        if out and getattr(event, "n", None) is not None:
            print(event.wire(), file=out, flush=True)
    return end


def notice(event) -> str | None:
    """What an event has to say besides words."""
    match event_type(event):
        case "asked":
            return f"asked, from second {event.step + 1} on: {event.question}"
        case "dropped":
            return f"seconds not watched: {event.steps} ({event.total} so far): {event.reason}"
        case "error":
            return f"the server says {event.code}: {event.message}"
        case "" if hasattr(event, "away_s"):
            return f"connected again after {event.away_s:.1f} s, {event.lost} frames lost"
    return None


def _typed():
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


def _tell_reconnect(reconnect) -> None:
    print(f"\n  [the source is lost, trying again: {reconnect.reason}]", file=sys.stderr, flush=True)

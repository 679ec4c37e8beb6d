"""Narrate a live source: a camera, a stream, a file at its own pace; with a model here or through a running server.

SOURCE is a file, http://, https://, rtsp://, rtsps://, or camera:0. Without --server and --model it takes what
scripts/quickstart.sh has trained, or makes an untrained toy checkpoint.

Ctrl-C ends the watching: the rest of the answer is spoken, and the exit code is 0. A second Ctrl-C leaves at once,
with exit code 130. Other codes: 1 when the server ended the session (idle, limit, shutdown), 2 for what can be put
right.
"""

import importlib.util
import sys
import threading
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path

from swwatch.config import REQUIRED, check_least, read_settings, setting
from swwatch.data.live.addresses import locate
from swwatch.engine.choose import AUTO, check_keep, check_name
from swwatch.errors import UserError
from swwatch.model.flags import LoadFlags, SessionFlags
from swwatch.paths import empty, writing
from swwatch.toy.quickstart import toy_checkpoint
from swwatch.watch.hooks import KINDS, Hooks, check_webhook, parse_on
from swwatch.watch.terminal import follow, interruptible, listen, show_reconnect, typed_lines

PACKAGES = ("websockets", "pydantic")
OF_A_SERVER = ("variant", "schedule")  # flags of a model that a server's session takes, too


@dataclass(frozen=True, kw_only=True)
class WatchSettings(SessionFlags, LoadFlags):
    """Flags of `swwatch watch`."""

    source: str = setting(REQUIRED, "a file, an http(s) or rtsp(s) address, or camera:0", positional=True)
    server: str | None = setting(None, "let this server narrate, as `swwatch serve` prints its address", metavar="URL")
    token: str | None = setting(None, "the server's [SWWATCH_TOKEN]")
    remote: bool = setting(False, "the server reads SOURCE: an address, or a name in its --files folder")
    model: str | None = setting(None, "checkpoint folder or hub id (default: the quick start's, or a made toy)")
    engine: str = setting(AUTO, "who watches while words are said")
    question: str | None = setting(None, "what to ask (default: the evaluation question)")
    ask: bool = setting(False, "a line typed meanwhile is a new question; also /pause, /resume, /stop")
    realtime: bool = setting(
        True, "a file plays at its own pace; with --no-realtime as fast as the model here watches it"
    )
    max_new_tokens: int | None = setting(
        None, "limit of the whole answer (default: 4096); of a turn for chat systems", least=1
    )
    jsonl: Path | None = setting(None, "write every event here, as messages of docs/protocol.md")
    on: list[str] = setting(
        [],
        f"run a command for each event of a kind, {', '.join(KINDS)}, which it reads as JSON; repeat it",
        repeat=True,
        metavar="EVENT=COMMAND",
    )
    webhook: str | None = setting(None, "post what is said, asked, dropped, and the end here, as JSON", metavar="URL")

    def __post_init__(self):
        super().__post_init__()
        check_least(self)
        for text in self.on:
            parse_on(text)
        if self.webhook is not None:
            check_webhook(self.webhook)
        if self.server:
            for name in (
                *(field.name for kind in (LoadFlags, SessionFlags) for field in fields(kind)),
                "model",
                "max_new_tokens",
            ):
                if name not in OF_A_SERVER and getattr(self, name) != type(self).__dataclass_fields__[name].default:
                    raise UserError(f"--{name.replace('_', '-')} is for a model here: leave it out with --server")
            if not self.realtime:
                raise UserError("--no-realtime is for a model here: a server keeps to the stream's own pace")
        else:
            check_name(self.engine)
            if self.remote or self.token:
                raise UserError("--remote and --token are for --server URL")
        if self.jsonl and self.jsonl.resolve() == Path(self.source).resolve():
            raise UserError("--jsonl names the source itself: choose another file")


def main(argv: list[str]) -> int:
    settings = read_settings(WatchSettings, argv, program="swwatch watch", about=__doc__)
    check_files(settings)

    from swwatch.data.live.sources import frames_of  # PyAV is behind it

    with (
        writing(settings.jsonl.parent) if settings.jsonl else nullcontext(),
        open_jsonl(settings.jsonl) as out,
        open_narrator(settings) as narrator,
    ):
        for note in narrator.notes:
            print(f"note: {note}")
        print(f"{settings.source} | {narrator.about}", end="", flush=True)
        if settings.ask:
            threading.Thread(target=listen, args=(typed_lines(), narrator), name="questions", daemon=True).start()
        pace = {"realtime": settings.realtime, "on_reconnect": show_reconnect}
        frames = None if settings.remote else frames_of(settings.source, **pace)
        with frames or nullcontext(), interruptible(narrator.end if frames is None else frames.stop):
            if out:
                empty(out)  # not sooner: a mistake should not cost the events of an earlier run
            try:
                with Hooks(settings.on, settings.webhook) as hooks:
                    end = follow(hooks.heard(narrator.watch(frames)), out, narrator.step_s)
            except (UserError, OSError):  # the second: of a disk
                print(flush=True)  # words may stand before what is told of it
                raise
        print(narrator.summary(), flush=True)
    if end is not None and end.reason not in ("finished", "stopped"):
        print(f"the server ended the session: {end.reason}", file=sys.stderr)
        return 1
    return 0


def check_files(settings: WatchSettings) -> None:
    """Look for what must be there before a model is loaded. Raises UserError."""
    if settings.server:
        missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
        if missing:
            raise UserError(f"--server needs {', '.join(missing)}: pip install 'swwatch[serve]'")
    if not settings.remote:
        locate(settings.source)
    if settings.model is not None:
        settings.check_model(settings.model)
        check_keep(settings.engine, settings.session_policies().get("keep"))


def open_jsonl(path: Path | None):
    """The file of events, not emptied yet. Raises UserError."""
    try:
        return open(path, "a", encoding="utf-8") if path else nullcontext()
    except OSError as error:
        raise UserError(f"--jsonl {path} cannot be written: {error.strerror}; choose another file") from error


def open_narrator(settings: WatchSettings):
    """Who narrates: a server, or a model here. torch is imported for the latter alone."""
    if settings.server:
        from swwatch.watch.remote import ServerNarrator

        return ServerNarrator(settings)
    from swwatch.watch.local import MOST_TOKENS, LocalNarrator

    models, variant, notes = ([settings.model], None, []) if settings.model else toy_checkpoint()
    return LocalNarrator(
        settings.load(models[0], variant=settings.variant or variant),
        question=settings.question,
        engine=settings.engine,
        max_new_tokens=settings.max_new_tokens or MOST_TOKENS,
        keeps_up=settings.realtime,
        notes=notes,
    )

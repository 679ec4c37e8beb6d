"""Serve a page and a WebSocket where a model speaks about what a camera, a screen or a video shows.

Without --model it takes what scripts/quickstart.sh has trained, or makes an untrained toy checkpoint.
"""

import importlib.util
import math
import os
import socket
import threading
import webbrowser
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

from swwatch.client.address import is_loopback
from swwatch.config import read_settings
from swwatch.engine.choose import check_keep
from swwatch.errors import UserError
from swwatch.launch.signals import handled_by
from swwatch.launch.worker import leave
from swwatch.rules.variants import TURNS, VARIANTS
from swwatch.serve.settings import ServeSettings
from swwatch.toy.quickstart import toy_checkpoint

PACKAGES = ("fastapi", "uvicorn", "websockets", "prometheus_client", "python_multipart", "pydantic")
SEND_BUFFER = 256 * 1024  # bytes that the system keeps for a client that reads slowly
SPARE_S = 30  # of video: a sender's clock may run ahead of ours


def parse(argv: list[str]) -> ServeSettings:
    """The flags."""
    return read_settings(ServeSettings, argv, program="swwatch serve", about=__doc__)


def main(argv: list[str]) -> NoReturn:
    settings = parse(argv)
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"serving needs {', '.join(missing)}: pip install 'swwatch[serve]'")
    for model in settings.model:
        settings.check_model(split_model(model)[0])
    check_keep(settings.engine, settings.session_policies().get("keep"))
    if settings.files is not None and not settings.files.is_dir():
        raise UserError(f"--files {settings.files}: there is no such folder")
    with handled_by(leave_at_once):
        if settings.replicas is None:
            serve(settings)
        else:
            serve_several(settings)
        leave(0)  # a picture that is still being decoded is not waited for


def leave_at_once(number: int, frame) -> NoReturn:
    """Until the server heeds signals itself. What was made so far is removed on the way out."""
    raise SystemExit(128 + number)


def serve(settings: ServeSettings, make: Callable | None = None, tell: Callable[[int], None] | None = None) -> None:
    """Bind, load, print the address, and serve until a signal comes.

    Args:
        make: what is served, of settings and gate; by default `build`.
        tell: called with the port, in place of printing.
    """
    from swwatch.serve import auth

    token = auth.choose_token(settings.token, settings.host, settings.no_token)
    gate = auth.AccessRules(token, auth.check_origins(settings.allow_origin), is_loopback(settings.host))
    listener = bind(settings.host, settings.port)  # before the model: a port in use should not cost its loading
    try:
        server = (make or build)(settings, gate)
    except BaseException:
        listener.close()
        raise
    from swwatch.serve.log import log, to_stderr
    from swwatch.serve.running import run

    to_stderr(settings.log_level, **({} if settings.replica is None else {"replica": settings.replica}))
    port = listener.getsockname()[1]
    address = page_address(settings.host, port)

    def announce() -> None:
        if tell is not None:
            return tell(port)
        for note in server.notes:
            print(f"note: {note}")
        fragment = token_fragment(token, os.environ.get("SWWATCH_TOKEN"))
        print(f"serving {server.model} at {address}{fragment}", flush=True)
        if token is None and not gate.loopback:
            print("note: no token: everybody who can reach this address may use it", flush=True)
        if settings.open:
            page = address + (f"#token={token}" if token else "")
            threading.Thread(target=webbrowser.open, args=(page,), daemon=True).start()
        log("serving", host=settings.host, port=port, token=token is not None)

    run(server, listener, announce)


def serve_several(settings: ServeSettings) -> None:
    """The same of several servers, with a door before them."""
    from swwatch.serve.front import several

    with ExitStack() as held:
        serve(settings, lambda settings, gate: held.enter_context(several(settings, gate, serve_one)))


def serve_one(settings: ServeSettings, tell: Callable[[int], None]) -> None:
    """The same of one among several, in a process of its own."""
    with handled_by(leave_at_once):
        serve(settings, tell=tell)


def token_fragment(token: str | None, environment: str | None) -> str:
    """The end of the page's address. What the environment has is kept out of what is printed, which services log."""
    if token is None:
        return ""
    return "#token=$SWWATCH_TOKEN" if token == environment else f"#token={token}"


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises UserError: the address is not to be had."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # connections inherit it
            listener.bind(address)
            listener.listen(128)
        except BaseException:
            listener.close()
            raise
        return listener
    except (OSError, OverflowError, UnicodeError) as error:
        raise UserError(f"cannot listen on {host}:{port}: {error}; choose another --host or --port") from error


def page_address(host: str, port: int) -> str:
    """Where people find the page; a server bound to all addresses is found on this one."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}/"


def build(settings: ServeSettings, gate):
    """Everything of a server but its socket."""
    from transformers.utils.logging import disable_progress_bar

    from swwatch.live.stage import Capacity
    from swwatch.model.fingerprint import fingerprint
    from swwatch.serve.app import Server
    from swwatch.serve.files import Uploads
    from swwatch.serve.folder import Folder
    from swwatch.serve.keeping import Keeping
    from swwatch.serve.metrics import Metrics
    from swwatch.serve.record import Recordings
    from swwatch.serve.sessions import SessionTable
    from swwatch.serve.stages import Checkpoint, Stages

    disable_progress_bar()  # stderr is for log lines
    models, variant, notes = (settings.model, settings.variant, []) if settings.model else toy_checkpoint()
    keeping = Keeping(settings.keep_sessions) if settings.keep_sessions else None  # before a model is loaded
    checkpoints = []
    for model in models:
        path, named = split_model(model)
        loaded = settings.load(path, variant=named or variant)
        policies = settings.session_policies().values()
        content = " ".join([fingerprint(path, loaded), *map(str, (loaded.model.dtype, *policies))]) if keeping else ""
        checkpoints.append(Checkpoint(Path(path).name or path, loaded, content))
    capacity = Capacity(video_s=math.ceil(settings.total_s) + SPARE_S, tokens=settings.max_tokens)
    stages = Stages(checkpoints, engine=settings.engine, max_sessions=settings.max_sessions, capacity=capacity)
    stages.begin()
    metrics = Metrics()
    sessions = SessionTable(
        stages,
        limits=settings,
        metrics=metrics,
        uploads=Uploads(settings, metrics),
        folder=Folder(settings.files),
        recordings=Recordings(settings.record_folder, settings.keep_s, replica=settings.replica),
        urls="all" if settings.allow_private_urls else "public" if settings.allow_urls else "none",
        keeping=keeping,
    )
    return Server(gate, settings, metrics, sessions, ", ".join(one.name for one in stages.checkpoints), notes)


def split_model(model: str) -> tuple[str, str | None]:
    """`group=PATH` -> (PATH, "group"); PATH alone -> (PATH, None)."""
    name, equals, path = model.partition("=")
    return (path, name) if equals and name in (*VARIANTS, *TURNS) else (model, None)

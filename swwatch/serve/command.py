"""Serve a page and a WebSocket where a model speaks about what a camera, a screen or a video shows.

Without --model it takes what scripts/quickstart.sh has trained, or makes an untrained toy checkpoint.
"""

import argparse
import importlib.util
import math
import os
import socket
import threading
import webbrowser
from pathlib import Path

from swwatch.client.address import is_loopback
from swwatch.config import add_flags, load_settings
from swwatch.errors import UserError
from swwatch.rules.variants import VARIANTS
from swwatch.toy.quickstart import toy_checkpoint

PACKAGES = ("fastapi", "uvicorn", "websockets", "prometheus_client", "python_multipart", "pydantic")
SEND_BUFFER = 256 * 1024  # bytes that the system keeps for a client that reads slowly
SPARE_S = 30  # of video: a sender's clock may run ahead of ours


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="swwatch serve", description=__doc__)
    parser.add_argument("--model", action="append", help="checkpoint folder or hub id, also as group=PATH; repeat it")
    parser.add_argument("--variant", choices=list(VARIANTS), help="needed where the checkpoint does not name one")
    parser.add_argument("--engine", default="auto", help="how sessions run unless they choose (default: auto)")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind to (default: this machine alone)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--open", action="store_true", help="show the page in the browser")
    parser.add_argument("--token", help="what clients must show; auto makes one [SWWATCH_TOKEN]")
    parser.add_argument("--no-token", action="store_true", help="let everybody in who can reach --host")
    parser.add_argument("--allow-origin", action="append", default=[], help="a page elsewhere that may use the server")
    parser.add_argument("--files", type=Path, metavar="FOLDER", help="sessions may watch the videos in this folder")
    parser.add_argument("--allow-urls", action="store_true", help="sessions may watch public http and rtsp addresses")
    parser.add_argument("--allow-private-urls", action="store_true", help="and those of this machine and its network")
    parser.add_argument("--record-folder", type=Path, metavar="FOLDER", help="keep recorded sessions here")
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--dtype", help="float32, bfloat16, ... (default: bfloat16 on cuda, else float32)")
    parser.add_argument("--attention", help="sdpa, eager or flash_attention_2 (default: the fastest that is exact)")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info", help="to stderr")
    return parser


def main(argv: list[str]) -> int:
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"serving needs {', '.join(missing)}: pip install 'swwatch[serve]'")
    from swwatch.serve.limits import Limits

    parser = build_parser()
    add_flags(parser.add_argument_group("limits"), Limits)
    flags = vars(parser.parse_args(argv))
    limits = load_settings(Limits, flags={name: flags.pop(name) for name in Limits.__dataclass_fields__})
    return serve(argparse.Namespace(**flags), limits)


def serve(args: argparse.Namespace, limits) -> int:
    """Load, bind, print the address, and serve until a signal comes."""
    from swwatch.serve import auth
    from swwatch.serve.log import log, to_stderr
    from swwatch.serve.running import run

    token = auth.choose_token(args.token or os.environ.get("SWWATCH_TOKEN"), args.host, args.no_token)
    gate = auth.Gate(token, auth.check_origins(args.allow_origin), is_loopback(args.host))
    listener = bind(args.host, args.port)  # before the model: a port in use should not cost its loading
    try:
        server = build(args, limits, gate)
    except BaseException:
        listener.close()
        raise
    to_stderr(args.log_level)
    address = page_address(args.host, listener.getsockname()[1])
    given = None if args.token else os.environ.get("SWWATCH_TOKEN")
    for note in server.notes:
        print(f"note: {note}")
    print(f"serving {server.model} at {address}{told_token(token, given)}", flush=True)
    if token is None and not gate.loopback:
        print("note: no token: everybody who can reach this address may use it", flush=True)
    if args.open:
        page = address + (f"#token={token}" if token else "")
        threading.Thread(target=webbrowser.open, args=(page,), daemon=True).start()
    log("serving", host=args.host, port=listener.getsockname()[1], token=token is not None)
    run(server, listener)
    return 0


def told_token(token: str | None, environment: str | None) -> str:
    """The end of the page's address. What the environment has is kept out of what is printed, which services log."""
    if token is None:
        return ""
    return "#token=$SWWATCH_TOKEN" if token == environment else f"#token={token}"


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises UserError: the address is not to be had."""
    if not 0 <= port <= 65535:  # some systems would take the rest of the division by 65536
        raise UserError(f"--port {port}: a port is a number from 0 to 65535")
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


def build(args: argparse.Namespace, limits, gate):
    """Everything of a server but its socket."""
    from transformers.utils.logging import disable_progress_bar

    from swwatch.data.prompt import load_prompts
    from swwatch.live.stage import Room
    from swwatch.model.loading import load
    from swwatch.serve.app import Server
    from swwatch.serve.files import Folder, Uploads
    from swwatch.serve.metrics import Metrics
    from swwatch.serve.record import Recordings
    from swwatch.serve.sessions import Sessions
    from swwatch.serve.stages import Checkpoint, Stages

    disable_progress_bar()  # stderr is for log lines
    folder = Folder(args.files)
    models, variant, notes = (args.model, args.variant, []) if args.model else toy_checkpoint()
    how = {"device": args.device, "dtype": args.dtype, "attention": args.attention}
    checkpoints = []
    for model in models:
        path, named = split_model(model)
        checkpoints.append(Checkpoint(Path(path).name or path, load(path, variant=named or variant, **how)))
    room = Room(video_s=math.ceil(limits.total_s) + SPARE_S, tokens=limits.max_tokens)
    stages = Stages(checkpoints, engine=args.engine, max_sessions=limits.max_sessions, room=room)
    stages.begin()
    metrics = Metrics()
    sessions = Sessions(
        stages,
        load_prompts(),
        limits=limits,
        metrics=metrics,
        uploads=Uploads(limits, metrics),
        folder=folder,
        recordings=Recordings(args.record_folder, limits.keep_s),
        urls="all" if args.allow_private_urls else "public" if args.allow_urls else "none",
    )
    return Server(gate, limits, metrics, sessions, ", ".join(one.name for one in checkpoints), notes)


def split_model(model: str) -> tuple[str, str | None]:
    """`group=PATH` -> (PATH, "group"); PATH alone -> (PATH, None)."""
    name, equals, path = model.partition("=")
    return (path, name) if equals and name in VARIANTS else (model, None)

"""The door before several servers: one address, whose clients each get the one that has room, or theirs again.

It keeps nothing that it could not find again: of an id that it does not know, all servers are asked. Without torch.
"""

import asyncio
import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from types import SimpleNamespace

import httpx
from fastapi import FastAPI, Request, Response
from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from starlette.responses import StreamingResponse
from websockets.exceptions import ConnectionClosed

from swwatch.client.codes import CLOSE_DONE, CLOSE_RESTART, ProtocolError
from swwatch.client.protocol import Error, Open
from swwatch.serve.auth import AccessRules
from swwatch.serve.children import Serve, children, scale_here
from swwatch.serve.connection import LAST_WORDS_S, Gone, LiveConnection
from swwatch.serve.door import HEADERS, add_door, add_sockets, while_there
from swwatch.serve.files import Bodies
from swwatch.serve.log import log
from swwatch.serve.metrics import FORM, Metrics
from swwatch.serve.refusals import error_body, refusal
from swwatch.serve.replicas import AWAY, Replica, Replicas, Upstream, replicas_of
from swwatch.serve.settings import Limits, ServeSettings

UPLOADS = ("/api/uploads", "/v1/files")
HELD = (*UPLOADS, "/api/recordings", "/sessions")  # below these, addresses name something that one replica has
FILE_ID = re.compile(rb'"file_id"\s*:\s*"([0-9a-f]{32})"')
OURS = {"connection", "host", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "authorization", "origin"}
OURS |= {"expect", "server", "date", *HEADERS}  # headers that are not passed on


@dataclass
class Front:
    """What belongs to one door; see running.Servable."""

    gate: AccessRules
    limits: Limits
    sessions: Replicas
    metrics: Metrics = field(default_factory=Metrics)
    notes: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        running, most = self.sessions.running, len(self.sessions.all)
        return f"{running} replicas" if running == most else f"{running} of {most} replicas"

    def app(self) -> FastAPI:
        """The application."""
        return create_app(self)

    def close(self, timeout_s: float) -> None:
        """Nothing is left here: replicas end in `Replicas.shutdown`."""


@contextlib.contextmanager
def several(settings: ServeSettings, gate: AccessRules, serve: Serve) -> Iterator[Front]:
    """A door before the replicas that --replicas asks for.

    Args:
        serve: what the process of one does, see `children`.
    Raises:
        UserError: they cannot be started, or an address is none.
    """
    with contextlib.ExitStack() as held:
        if "://" in settings.replicas:
            scale, replicas = None, replicas_of(settings.replicas, settings.token)
        else:
            scale = scale_here(settings)
            replicas = held.enter_context(children(settings, scale, serve))
        limits = replace(settings, max_sessions=settings.max_sessions * len(replicas))
        yield Front(gate, limits, Replicas(replicas, limits, scale))


def create_app(front: Front) -> FastAPI:
    """The application of a door."""
    replicas, bodies = front.sessions, Bodies(front.limits)

    @contextlib.asynccontextmanager
    async def life(_):
        await asyncio.gather(*(replica.look(replicas.http) for replica in replicas.all))
        watching = asyncio.create_task(replicas.watch())
        yield
        watching.cancel()

    app = FastAPI(title="swwatch", version=version("swwatch"), docs_url=None, openapi_url=None, lifespan=life)
    add_door(app, front)

    @app.get("/health")
    async def health() -> dict:
        up = sum(replica.up for replica in replicas.all)
        about = {"sessions": len(replicas), "places": replicas.places, "replicas": replicas.running, "up": up}
        return {"status": "ok" if up else "starting", **about, "version": app.version}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(await _metrics(replicas), media_type=FORM)

    @app.get("/api/info")
    async def info(request: Request) -> dict:
        async def ask(replica: Replica) -> tuple:
            return await (await _send(replicas, replica, request, None)).aread(), True

        return json.loads(await replicas.first(None, ask)) | {"token_needed": front.gate.token is not None}

    @app.api_route("/{path:path}", methods=["GET", "POST", "DELETE"])
    async def anything(request: Request) -> Response:
        path = request.url.path
        if request.method == "POST" and path in UPLOADS:
            return await _upload(replicas, bodies, request)
        async with bodies.read(request) as body:
            return await while_there(request, _ask(replicas, request, body))

    add_sockets(app, front, Passing, PassingRealtime)
    return app


# --- sockets --------------------------------------------------------------------------------------------------------


class Passing(LiveConnection):
    """A client's WebSocket, joined to one of a replica's."""

    async def _begin(self, opening: Open):
        return await self.server.sessions.open(opening)

    async def _serve(self, upstream: Upstream) -> int:
        """Pass on what each of them says, as fast as the other reads it. Returns the close code of the replica."""
        tasks = [asyncio.create_task(one) for one in (self._down(upstream), self._up(upstream))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _down(self, upstream: Upstream) -> int:
        try:
            while True:
                await self._send_text(await upstream.socket.recv())
        except ConnectionClosed as error:
            code = error.rcvd.code if error.rcvd else CLOSE_RESTART  # it broke: the session may stand, or stand again
            return CLOSE_DONE if code == 1005 else code
        except Gone:
            await asyncio.sleep(LAST_WORDS_S)  # the other task is told how the client left
            raise

    async def _up(self, upstream: Upstream) -> int:
        try:
            while True:
                await upstream.socket.send(await self._receive())
        except Gone as error:
            if error.args == (CLOSE_DONE,):
                await upstream.socket.close()
            raise
        except ConnectionClosed:
            await asyncio.Event().wait()  # the other task is told how the replica left


@dataclass(frozen=True)
class Text:
    """A message as it is on the wire."""

    text: str

    def wire(self) -> str:
        return self.text


class PassingRealtime(Passing):
    """The same in OpenAI's form, in which the server speaks first."""

    subprotocol, token_subprotocol = "realtime", "openai-insecure-api-key."

    async def _open(self):
        query = f"?{self.websocket.url.query}" if self.websocket.url.query else ""

        async def ask(replica: Replica) -> tuple:
            upstream, greeting = await replica.reach(f"/v1/realtime{query}", self.subprotocol)
            replica.begun()
            return (upstream, Text(greeting)), True

        return await self.server.sessions.first(None, ask)

    async def _send(self, message) -> None:
        if isinstance(message, Error):
            message = Text(json.dumps({"type": "error", **error_body(message.code, message.message)}))
        await super()._send(message)


# --- HTTP -----------------------------------------------------------------------------------------------------------


async def _ask(replicas: Replicas, request: Request, body: bytes) -> Response:
    """Send a request to the replica that has what it is about or, where none is known to, to each until one has it,
    or room. Raises ProtocolError: full, none is there."""
    path, found = request.url.path, FILE_ID.search(body)
    named = path.startswith(HELD)
    wanted = path.rpartition("/")[2].partition(".")[0] if named else found and found[1].decode()

    async def ask(replica: Replica) -> tuple:
        answer = await _send(replicas, replica, request, body)
        if answer.status_code == 429 and not wanted and (full := replicas.full()):
            await answer.aclose()
            return refusal(full), False
        if answer.status_code == 429 or answer.status_code == 404 and wanted:
            return Response(await answer.aread(), answer.status_code, _headers(answer)), False
        if request.method == "POST":  # its session may not be over yet
            replica.begun()
        return Passed(answer), True

    return await replicas.first(wanted, ask)


async def _upload(replicas: Replicas, bodies: Bodies, request: Request) -> Response:
    """Pass a file on, as it comes, to the replica with most room."""
    replica, *_ = replicas.whom_to_ask(None)
    try:
        # what stands still is not seen by the replica, which waits for it
        with replica.opening(), bodies.place() as coming:
            answer = await _send(replicas, replica, request, coming.timely(request.stream()))
            content = await answer.aread()
    except AWAY as error:
        raise ProtocolError("full", "the server that took it has gone: send it again") from error
    if answer.is_success:
        replicas.has(replica, json.loads(content)["id"])
    return Response(content, answer.status_code, _headers(answer))


async def _send(replicas: Replicas, replica: Replica, request: Request, body) -> httpx.Response:
    raw = request.scope["raw_path"] + (b"?" + request.scope["query_string"]).rstrip(b"?")
    if not replica.up or not raw.startswith(b"/"):
        raise OSError(f"replica {replica.name} is not there")
    base = httpx.URL(replica.address.base)
    url = base.copy_with(raw_path=base.raw_path.rstrip(b"/") + raw)
    headers = _headers(request) | replica.address.headers
    asking = replicas.http.build_request(request.method, url, headers=headers, content=body)
    return await replicas.http.send(asking, stream=True)


def _headers(of: Request | httpx.Response) -> dict[str, str]:
    return {name: value for name, value in of.headers.items() if name.lower() not in OURS}


class Passed(StreamingResponse):
    """A replica's answer, as it comes; where the client leaves, the replica is told."""

    def __init__(self, answer: httpx.Response):
        super().__init__(answer.aiter_raw(), answer.status_code, _headers(answer))
        self._answer = answer

    async def __call__(self, scope, receive, send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except AWAY as error:
            log("replica lost amid an answer", level=40, kind=type(error).__name__)
        finally:
            await self._answer.aclose()


def _known(replica: Replica, answers: bool) -> str:
    """What the door itself can tell of a replica."""
    known = [("starts_total", "counter", replica.starts), ("stops_total", "counter", replica.stops)]
    if not replica.asleep:
        known.append(("up", "gauge", int(answers)))
    form = "# TYPE swwatch_replica_{0} {1}\nswwatch_replica_{0} {2}\n"
    return "".join(form.format(*one) for one in known)


async def _metrics(replicas: Replicas) -> bytes:
    """All of all, each with its replica's name, so that sums are Prometheus' own."""
    families: dict[str, Metric] = {}

    def add(name: str, text: str) -> None:
        for family in text_string_to_metric_families(text):
            merged = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                merged.samples.append(sample._replace(labels={"replica": name, **sample.labels}))

    async def ask(replica: Replica) -> tuple[Replica, str | None]:
        with contextlib.suppress(*AWAY):
            if replica.up:
                url, headers = f"{replica.address.base}/metrics", replica.address.headers
                return replica, (await replicas.http.get(url, headers=headers, timeout=5)).raise_for_status().text
        return replica, None

    for replica, text in await asyncio.gather(*map(ask, replicas.all)):
        add(replica.name, _known(replica, text is not None) + (text or ""))
    return generate_latest(SimpleNamespace(collect=families.values))  # all that it asks a registry for

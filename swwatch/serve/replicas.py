"""Several servers as one: how full each is, who has what, and the way to it."""

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from swwatch.client.address import Address, locate
from swwatch.client.protocol import SUBPROTOCOL, Open, Opened, ProtocolError, Upload, parse_server
from swwatch.errors import UserError
from swwatch.serve.limits import WaitingConnections
from swwatch.serve.log import log
from swwatch.serve.scaling import Scale
from swwatch.serve.settings import Limits

LOOK_S, HEAR_S, SILENT_S = 0.5, 5.0, 60.0  # how often, how long, and after what silence a replica counts as lost
REACH_S = 5.0  # to a replica
HOMES = 100_000  # ids that are known to be somewhere; of others all replicas are asked
AWAY = (OSError, WebSocketException, TimeoutError, httpx.HTTPError)  # how it shows that a replica is not there


class Upstream:
    """A WebSocket to a replica."""

    def __init__(self, replica: "Replica", socket: ClientConnection):
        self.socket, self._replica = socket, replica
        replica.sockets.add(self)

    def detach(self, connection) -> None:
        """Break it off, where it is not closed: its session stays for its grace."""
        self._replica.sockets.discard(self)
        self.socket.transport.abort()


class Replica:
    """One server among several, wherever it runs.

    Attributes:
        address: None while it is not there.
        up: it answers: newcomers may go there.
        held: what clients may still ask it for beside sessions, as uploads.
        runs: as a process of ours; starts, stops: how often that was started, and ended because it was not needed.
        asleep: it is not to run.
        begun_s: since when it loads, of time.monotonic(), unless it has failed to; took_s: the last time.
    """

    runs = asleep = False
    begun_s: float | None = None
    took_s = 0.0
    starts = stops = held = 0

    def __init__(self, name: str, address: Address | None = None):
        self.name, self.address, self.up = name, address, False
        self.places = self._told = 0  # by itself, of how many sessions
        self._opening = self._opened = self._counted = 0  # sessions through this door; those that it has told of
        self.sockets: set[Upstream] = set()
        self._heard_s = time.monotonic()

    @property
    def sessions(self) -> int:
        """That it has, or is about to have."""
        return self._told + self._opening + self._opened - self._counted

    @property
    def fullness(self) -> float:
        """Of its places, which part is taken."""
        return self.sessions / max(1, self.places)

    @contextlib.contextmanager
    def opening(self) -> Iterator[None]:
        """While a session is asked for."""
        self._opening += 1
        try:
            yield
        finally:
            self._opening -= 1

    def begun(self) -> None:
        """It has a session more."""
        self._opened += 1

    async def look(self, http: httpx.AsyncClient) -> bool:
        """See how it is; one that has been silent for long is gone. Returns whether what it had is known lost."""
        counted = self._opened  # those are in what it tells
        try:
            health = (await http.get(f"{self.address.base}/health", timeout=HEAR_S)).raise_for_status().json()
            self._told, self.places, self._heard_s = health["sessions"], health["places"], time.monotonic()
            self.held = health.get("held", 0)
            self._counted, now_up = counted, True
        except (httpx.HTTPError, ValueError, KeyError, TypeError):  # nobody, or no server of ours
            now_up = False
        if now_up != self.up:
            log("replica", replica=self.name, up=now_up)
        self.up = now_up
        if time.monotonic() - self._heard_s > SILENT_S:
            self.gone()
        return False

    def gone(self) -> None:
        """It is not there any more, nor is what it had, nor a connection to it."""
        self.up = False
        self._told = self.held = 0
        self._counted = self._opened
        for upstream in list(self.sockets):
            upstream.socket.transport.abort()

    async def reach(self, path: str, subprotocol: str, *said: str) -> tuple[Upstream, str]:
        """A WebSocket to it on which something was said, and what came back first. Raises one of AWAY."""
        if not self.up:
            raise OSError(f"replica {self.name} is not there")
        url = "ws" + self.address.base.removeprefix("http") + path
        how = {"compression": None, "max_size": None, "ping_interval": None, "proxy": None, "close_timeout": 2}
        headers = self.address.headers
        socket = await connect(
            url, subprotocols=[subprotocol], additional_headers=headers, open_timeout=REACH_S, **how
        )
        upstream = Upstream(self, socket)
        try:
            for text in said:
                await socket.send(text)
            return upstream, await socket.recv()
        except BaseException:
            upstream.detach(None)
            raise


class Replicas(WaitingConnections):
    """All of them, in front of which a door stands."""

    def __init__(self, replicas: Iterable[Replica], limits: Limits, scale: Scale | None = None):
        """Args: scale: how many are to run, of those of this machine."""
        super().__init__(limits)
        self.all = list(replicas)
        self._scale, self._spare = scale, []
        self._homes: dict[str, Replica | None] = {}  # of sessions, uploads and recordings, by id; None: it is gone
        unbounded = httpx.Limits(max_connections=None, max_keepalive_connections=32, keepalive_expiry=2.0)
        timeout = httpx.Timeout(None, connect=REACH_S)
        self.http = httpx.AsyncClient(limits=unbounded, timeout=timeout, trust_env=False)

    def __len__(self) -> int:
        """Sessions of all that are there."""
        return sum(replica.sessions for replica in self.all if replica.up)

    @property
    def running(self) -> int:
        """Replicas that are to run."""
        return sum(not replica.asleep for replica in self.all)

    @property
    def places(self) -> int:
        """Of all that are there."""
        return sum(replica.places for replica in self.all if replica.up)

    # --- who has what -------------------------------------------------------------------------------------------

    def has(self, replica: Replica, *ids: str | None) -> None:
        """Remember where something is."""
        for one in filter(None, ids):
            self._homes.pop(one, None)
            self._homes[one] = replica
        while len(self._homes) > HOMES:
            del self._homes[next(iter(self._homes))]

    def lost(self, replica: Replica) -> None:
        """What a replica had is there no more."""
        self._homes = {one: None if home is replica else home for one, home in self._homes.items()}

    def whom_to_ask(self, one: str | None) -> list[Replica]:
        """Where something is or, of what is new or unknown, all that are there, the least full first.

        Raises:
            ProtocolError: full, nobody is there at the moment.
        """
        home = self._homes.get(one)
        candidates = [home] if home else sorted((one for one in self.all if one.up), key=self._unwelcoming)
        if not any(replica.up for replica in candidates):
            raise ProtocolError("full", "the server that this is for is starting: try again soon", fatal=True)
        return candidates

    def _unwelcoming(self, replica: Replica) -> tuple[bool, float]:
        return replica in self._spare, replica.fullness

    # --- the way ------------------------------------------------------------------------------------------------

    async def first(self, wanted: str | None, ask: Callable[[Replica], Awaitable[tuple]]) -> Any:
        """Ask those of `whom_to_ask` one after the other; who turns out to be away is passed over.

        Args:
            ask: gives a replica's answer, and whether it stands.
        Returns:
            The first answer that stands; where none does, the last one.
        Raises:
            ProtocolError: full, there is no answer.
        """
        answer = None
        for replica in self.whom_to_ask(wanted):
            with contextlib.suppress(*AWAY), replica.opening():
                answer, stands = await ask(replica)
                if stands:
                    break
        if answer is None:
            raise ProtocolError("full", "no server could be reached: try again soon", fatal=True)
        return answer

    async def open(self, opening: Open) -> tuple[Upstream, Opened]:
        """Begin a session where there is room, or go on with one where it is.

        Raises:
            ProtocolError: fatal; of several that cannot, the last one's.
        """
        if opening.resume and self._homes.get(opening.resume, self) is None:
            why = "the server that had this session is gone, and the session with it: open another one"
            raise ProtocolError("not_found", why, fatal=True)
        wanted = opening.resume or (opening.source.id if isinstance(opening.source, Upload) else None)

        async def ask(replica: Replica) -> tuple:
            upstream, greeting = await replica.reach("/api/live", SUBPROTOCOL, opening.wire())
            answer = parse_server(greeting)
            if isinstance(answer, Opened):
                if not answer.resumed:
                    replica.begun()
                self.has(replica, answer.session, answer.recording)
                return (upstream, answer), True
            upstream.detach(None)
            return (None, answer), not (answer.code == "full" or answer.code == "not_found" and wanted)

        upstream, answer = await self.first(wanted, ask)
        if upstream is None:
            full = self.full() if answer.code == "full" and not wanted else None
            raise full or ProtocolError(answer.code, answer.message, fatal=True)
        return upstream, answer

    async def watch(self) -> None:
        """Look after all, for as long as the door is open."""
        await asyncio.gather(*(self._watch(replica) for replica in self.all), self._rescale())

    async def _watch(self, replica: Replica) -> None:
        while not self.closing:
            if await replica.look(self.http):
                self.lost(replica)
            await asyncio.sleep(LOOK_S)

    async def _rescale(self) -> None:
        while self._scale is not None and not self.closing:
            self.rescale()
            await asyncio.sleep(LOOK_S)

    def rescale(self) -> None:
        """Start replicas where places run short, and end those that have long been too many."""
        self._spare = self._scale.adjust(self.all, time.monotonic())
        for replica in self._spare:
            if replica.asleep:
                self.lost(replica)

    def full(self) -> ProtocolError | None:
        """What a newcomer is told where another replica is starting."""
        if self._scale is not None:
            self.rescale()
        begun = [replica.begun_s for replica in self.all if replica.begun_s is not None]
        if not begun:
            return None
        since_s = time.monotonic() - min(begun)
        left_s = max(replica.took_s for replica in self.all) - since_s
        soon_s = max(1, math.ceil(max(left_s, since_s / 4)))  # what is overdue may take as long again
        why = f"all places are taken; another server is starting, and should be there in about {soon_s} s"
        return ProtocolError("full", why, fatal=True, retry_after_s=soon_s)

    async def shutdown(self, timeout_s: float) -> None:
        """End those that run here; those that have not ended in time are killed."""
        self.turn_away()
        ours = [replica for replica in self.all if replica.runs]
        for replica in ours:
            replica.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while any(replica.runs for replica in ours):
                    await asyncio.sleep(0.05)
        for replica in ours:
            replica.kill()
        await self.http.aclose()


def replicas_of(urls: str, token: str | None) -> list[Replica]:
    """Servers that run elsewhere, by their addresses.

    Raises:
        UserError: one is no address, or stands there twice.
    """
    found = [locate(url.strip(), token) for url in urls.split(",")]
    names = [urlsplit(address.base).netloc for address in found]
    if len(set(names)) < len(names):
        raise UserError(f"--replicas {urls}: each address once")
    return [Replica(name, address) for name, address in zip(names, found, strict=True)]

"""All sessions of a server: who may open one, who goes on with one, and how all of them end."""

import asyncio
import contextlib
import secrets

from swwatch.client.protocol import VERSION, File, Open, Opened, ProtocolError, Upload, parse_server
from swwatch.engine.door import own_question, pace_of
from swwatch.errors import UserError
from swwatch.live.stage import Full, LiveSession, Stage
from swwatch.serve.files import Uploads
from swwatch.serve.folder import Folder
from swwatch.serve.keeping import Keeping
from swwatch.serve.limits import WaitingConnections
from swwatch.serve.log import log
from swwatch.serve.metrics import Metrics
from swwatch.serve.record import Recordings
from swwatch.serve.session import Connected, ServedSession
from swwatch.serve.settings import Limits
from swwatch.serve.sources import OURS, SessionOptions, SourceReader
from swwatch.serve.stages import Stages
from swwatch.serve.threads import Threads

Begun = tuple[ServedSession, Opened]  # and what its client is told of it
KEEP_WITHIN_S = 2.0  # a session whose step takes longer than that is not waited for


class SessionTable(WaitingConnections):
    """The table of sessions, by their secret."""

    def __init__(
        self,
        stages: Stages,
        *,
        limits: Limits,
        metrics: Metrics,
        uploads: Uploads,
        folder: Folder,
        recordings: Recordings,
        urls: str,
        keeping: Keeping | None = None,
    ):
        """
        Args:
            urls: which addresses sessions may read: "none", "public" or "all".
            keeping: where sessions stay from this server to the next.
        """
        super().__init__(limits)
        self.stages, self.metrics = stages, metrics
        self.uploads, self.folder, self.recordings, self.urls = uploads, folder, recordings, urls
        self.keeping = keeping
        self.threads = Threads(limits.max_sessions)
        self._sessions: dict[str, ServedSession] = {}
        self._opening = 0
        self._leave: dict[str, contextlib.ExitStack] = {}

    def __len__(self) -> int:
        """Sessions that the model still works for."""
        return sum(not session.over for session in self._sessions.values())

    @property
    def held(self) -> int:
        """Files that are kept here for clients, and nowhere else."""
        return self.uploads.num + self.recordings.num_own

    async def open(self, message: Open, connection: Connected, beside: SessionOptions = OURS) -> Begun:
        """Begin a session, or go on with one.

        Raises:
            ProtocolError: fatal, whatever it is: the connection has no session then.
        """
        try:
            if message.version != VERSION:
                raise ProtocolError("version", f"this server speaks version {VERSION}")
            if self.closing and self.keeping is not None:
                raise ProtocolError("full", "the server is about to start again")
            if message.resume is not None:
                return self._resume(message, connection)
            if self.closing:
                raise ProtocolError("full", "the server is stopping")
            if len(self) + self._opening >= self.limits.max_sessions:
                raise ProtocolError("full", f"all {self.limits.max_sessions} sessions are taken: try later")
            self._opening += 1
            try:
                return await self._begin(message, connection, beside)
            finally:
                self._opening -= 1
        except ProtocolError as error:
            error.fatal = True
            raise

    def _resume(self, message: Open, connection: Connected) -> Begun:
        session = self._sessions.get(message.resume)
        if session is None:
            raise ProtocolError("not_found", "no such session: it may have ended")
        try:
            missed = session.attach(connection, message.seen)
        except ValueError:
            raise ProtocolError("bad_message", "open.seen: this session has not sent so much") from None
        self.metrics.resumed.inc()
        update = {"resumed": True, "missed": missed, "left_s": round(session.left_s, 3)}
        return session, session.opened.model_copy(update=update)

    async def _begin(self, message: Open, connection: Connected, beside: SessionOptions) -> Begun:
        checkpoint = self.stages.find(message.variant)
        settings = checkpoint.loaded.settings
        question = message.question or own_question(settings)
        if len(question) > self.limits.max_question_chars:
            raise ProtocolError("too_large", f"a question may have {self.limits.max_question_chars} characters")
        if message.policy == "block" and message.source is None and beside.source is None:
            raise ProtocolError("unsupported", "policy block is for sources that the server reads")
        with contextlib.ExitStack() as held:  # what the session keeps until its end
            source = beside.source or self._source(message, beside.hurries, held)
            if source is not None:
                held.callback(source.stop)
                await self.threads.read(source.open)  # names may take long to be looked up
            stage = await asyncio.to_thread(self.stages.get, checkpoint, message.engine)
            try:
                schedule = pace_of(settings, message.schedule)
                live = await self._live(stage, question, message.schedule, message.policy, **beside.options)
            except Full as error:
                raise ProtocolError("full", str(error)) from error
            except UserError as error:
                raise ProtocolError("unsupported", str(error)) from error
            held.callback(live.stop)  # its place is free again, also where something below fails
            if self.closing:
                raise ProtocolError("full", "the server is stopping")
            secret = secrets.token_urlsafe(24)
            recording = self.recordings.new_name() if message.record else None
            opened = Opened(
                session=secret,
                variant=checkpoint.variant,
                engine=stage.engine,
                why=stage.why,
                schedule=schedule,
                question=question,
                fps=checkpoint.loaded.settings.fps,
                rate=min(message.rate or checkpoint.loaded.settings.fps, self.limits.max_frame_rate),
                policy=message.policy,
                limits=self.limits.as_message(),
                grace_s=self.limits.grace_s,
                left_s=self.limits.total_s,
                recording=recording,
            )
            session = self._make(live, opened, source)
            self._leave[secret] = held.pop_all()
        session.attach(connection)
        self.metrics.opened.labels(opened.variant, opened.engine).inc()
        kind = message.source.kind if message.source else "request" if beside.source else "frames"
        log("session opened", variant=opened.variant, engine=opened.engine, source=kind, record=message.record)
        return session, opened

    async def _live(
        self, stage: Stage, question: str, schedule: str | None, policy: str, state=None, **options
    ) -> LiveSession:
        options |= {"limit": self.limits.max_tokens, "queue_size": self.limits.queue_size, "state": state}
        options |= {"question": question, "schedule": schedule, "policy": policy}
        return await asyncio.to_thread(stage.open, max_events=self.limits.max_unread, **options)

    def _make(
        self, live, opened: Opened, source: SourceReader | None = None, state: dict | None = None
    ) -> ServedSession:
        aside = None if state is None else state["telling"]["recording"]
        records = opened.recording and (state is None or aside)  # its recording may have been lost
        session = ServedSession(
            live,
            opened,
            limits=self.limits,
            metrics=self.metrics,
            threads=self.threads,
            on_over=self._over,
            recorder=self.recordings.begin(opened.recording, opened, aside) if records else None,
            source=source,
            state=state,
        )
        self._sessions[opened.session] = session
        self.metrics.sessions.set(len(self))
        if source is not None:
            source.start(session)
        return session

    def _source(self, message: Open, hurries: bool, held: contextlib.ExitStack) -> SourceReader | None:
        source = message.source
        if source is None:
            return None
        how = {"max_pixels": self.limits.max_pixels, "realtime": not hurries}
        if isinstance(source, Upload):
            return SourceReader(str(held.enter_context(self.uploads.using(source.id))), "the uploaded file", **how)
        if isinstance(source, File):
            if self.folder.root is None:
                raise ProtocolError("unsupported", "this server serves no files: start it with --files FOLDER")
            return SourceReader(str(self.folder.path(source.name)), source.name, **how)
        if self.urls == "none":
            raise ProtocolError("unsupported", "this server fetches no addresses: start it with --allow-urls")
        if "://" not in source.url:
            raise ProtocolError("source", "an address must begin with http://, https://, rtsp:// or rtsps://")
        return SourceReader(source.url, source.url, **how, allow_private=self.urls == "all")

    def _over(self, session: ServedSession) -> None:
        """A session has ended; for its grace time a client whose connection broke may fetch the last words."""
        secret = session.opened.session
        self._leave.pop(secret).close()
        self.metrics.sessions.set(len(self))
        over = [name for name, one in self._sessions.items() if one.over]
        for name in over[: -self.limits.max_sessions]:
            self._forget(name)
        asyncio.get_running_loop().call_later(self.limits.grace_s, self._forget, secret)

    def _forget(self, secret: str) -> None:
        if (session := self._sessions.pop(secret, None)) is not None:
            session.cancel()

    # --- from this server to the next ---------------------------------------------------------------------------

    async def take_up(self) -> None:
        """Go on with the sessions that the server before this one has kept; what cannot be is told, and left."""
        for path in self.keeping.paths() if self.keeping is not None else ():
            try:
                await self._take_up(await asyncio.to_thread(self.keeping.read, path))
            except (UserError, ProtocolError) as error:
                why = str(error)
            except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
                why = f"it is damaged, or of another version ({type(error).__name__})"
            else:
                path.unlink()
                continue
            print(f"note: {path} is not taken up, {why}; remove it if it is not wanted", flush=True)
        log("sessions taken up", sessions=len(self))

    async def _take_up(self, snapshot: dict) -> None:
        opened = parse_server(snapshot["opened"])
        checkpoint = self.stages.find(opened.variant)
        if snapshot["checkpoint"] != checkpoint.content:
            raise UserError("it is of another checkpoint")
        stage = await asyncio.to_thread(self.stages.get, checkpoint, None)
        if stage.engine != opened.engine:
            stage = await asyncio.to_thread(self.stages.get, checkpoint, opened.engine)
        with contextlib.ExitStack() as held:
            how = opened.question, opened.schedule or None, opened.policy
            live = await self._live(stage, *how, state=snapshot["live"])
            held.callback(live.stop)
            opened = opened.model_copy(update={"limits": self.limits.as_message(), "grace_s": self.limits.grace_s})
            self._make(live, opened, state=snapshot)
            self._leave[opened.session] = held.pop_all()

    async def _keep(self, session: ServedSession) -> None:
        """Put a session aside on disk. Where that fails it is left as it was, or at its end."""
        secret = session.opened.session
        try:
            async with asyncio.timeout(KEEP_WITHIN_S):
                state = await session.put_aside()
            if state is None:  # its stage has told why
                return
            state["checkpoint"] = self.stages.find(session.opened.variant).content
            await asyncio.to_thread(self.keeping.write, secret, state)
        except (TimeoutError, UserError, OSError) as error:
            log("session not kept", level=40, kind=type(error).__name__, error=error)
            session.stop("shutdown")
            if not isinstance(error, TimeoutError):  # the model is done with it
                session.finish(None)
            return
        if session.connection is not None:
            session.connection.restart()
        self._sessions.pop(secret).cancel()
        self._leave.pop(secret).close()

    # --- the end ------------------------------------------------------------------------------------------------

    async def sweep(self) -> None:
        """Remove old files, for as long as the server runs."""
        while True:
            await asyncio.sleep(min(60.0, self.limits.keep_s))
            self.uploads.sweep()
            self.recordings.sweep()

    async def shutdown(self, timeout_s: float = 5.0) -> None:
        """Keep what can be kept, end all other sessions with an event, and give clients a moment to read it."""
        self.turn_away()
        if self.keeping is not None:
            able = [session for session in self._sessions.values() if session.can_be_kept]
            await asyncio.gather(*(self._keep(session) for session in able))
            timeout_s -= KEEP_WITHIN_S
            log("sessions kept", sessions=sum(session.opened.session not in self._sessions for session in able))
        for session in list(self._sessions.values()):
            session.stop("shutdown")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._opening or any(one.connection or not one.over for one in self._sessions.values()):
                    await asyncio.sleep(0.02)
        for secret in list(self._sessions):
            self._forget(secret)
        self.threads.close()

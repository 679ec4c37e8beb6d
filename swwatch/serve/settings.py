"""What can be set for `swwatch serve`. Nothing here imports torch, or what the extra `serve` brings."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from swwatch.config import check_least, setting
from swwatch.engine.choose import AUTO, check_name
from swwatch.errors import UserError
from swwatch.model.flags import LoadFlags, SessionFlags

if TYPE_CHECKING:
    from swwatch.client.protocol import LimitsTold


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a client may ask of the server; times in seconds, sizes in bytes."""

    heading: ClassVar[str] = "limits"

    max_sessions: int = setting(8, "sessions at a time; one more is told `full`")
    max_frame_bytes: int = setting(2_000_000, "size of one picture")
    max_pixels: int = setting(3840 * 2160, "pixels of one picture, checked before it is decoded")
    max_frame_rate: float = setting(60.0, "frames a second of one session; more are not decoded")
    max_message_bytes: int = setting(16_384, "size of a text message")
    max_question_chars: int = setting(1000, "length of a question")
    max_tokens: int = setting(4096, "tokens that a session may speak")
    idle_s: float = setting(60.0, "end a session that nothing came for")
    total_s: float = setting(600.0, "end a session after this time, or so much video")
    grace_s: float = setting(15.0, "keep a session whose connection broke")
    max_unread: int = setting(1024, "events kept for a client that does not read; then its session waits")
    queue_size: int = setting(8, "steps that may wait for the model; then the session's policy drops or merges")
    max_upload_bytes: int = setting(200_000_000, "size of one uploaded file")
    max_request_bytes: int = setting(64_000_000, "size of a chat completion, with the pictures and the video in it")
    max_uploads_bytes: int = setting(1_000_000_000, "size of all uploaded files")
    max_uploads: int = setting(32, "number of uploaded files")
    keep_s: float = setting(1800.0, "remove uploads and recordings after this time")

    def __post_init__(self):
        for field in fields(Limits):
            value = getattr(self, field.name)
            if value < 0 or value == 0 and field.name != "grace_s":
                raise UserError(f"--{field.name.replace('_', '-')} must be above 0")

    def as_message(self) -> "LimitsTold":
        """What `opened` and /api/info say about them."""
        from swwatch.client.protocol import LimitsTold  # pydantic takes longer to import than flags to parse

        return LimitsTold(
            frame_bytes=self.max_frame_bytes,
            pixels=self.max_pixels,
            frame_rate=self.max_frame_rate,
            message_bytes=self.max_message_bytes,
            question_chars=self.max_question_chars,
            idle_s=self.idle_s,
            total_s=self.total_s,
            tokens=self.max_tokens,
        )

    @property
    def max_size(self) -> int:
        """Of a WebSocket message; a larger one is not read. Twice the limits, so that a mistake gets an answer."""
        return 2 * max(self.max_frame_bytes, self.max_message_bytes)


@dataclass(frozen=True, kw_only=True)
class ServeSettings(SessionFlags, LoadFlags, Limits):
    """Flags of `swwatch serve`."""

    model: list[str] = setting([], "checkpoint folder or hub id, also as VARIANT=PATH; repeat it", repeat=True)
    engine: str = setting(AUTO, "how sessions run unless they choose")
    host: str = setting("127.0.0.1", "address to bind to, by default this machine alone")
    port: int = setting(8000, "0 takes a free one")
    open: bool = setting(False, "show the page in the browser")
    token: str | None = setting(None, "what clients must show; auto makes one", env="SWWATCH_TOKEN")
    no_token: bool = setting(False, "let everybody in who can reach --host")
    allow_origin: list[str] = setting([], "a page elsewhere that may use the server; repeat it", repeat=True)
    files: Path | None = setting(None, "sessions may watch the videos in this folder", metavar="FOLDER")
    allow_urls: bool = setting(False, "sessions may watch public http and rtsp addresses")
    allow_private_urls: bool = setting(False, "and those of this machine and its network")
    keep_sessions: Path | None = setting(
        None, "keep sessions here when the server ends; the next one goes on with them", metavar="FOLDER"
    )
    record_folder: Path | None = setting(None, "keep recorded sessions here", metavar="FOLDER")
    replicas: str | None = setting(
        None, "so many servers of this kind behind one address, LEAST:MOST, auto, or the addresses of some: URL,URL"
    )
    replica_idle_s: float = setting(300.0, "of LEAST:MOST, end a server without a session for this time", above=0)
    replica: int | None = setting(None, "which of several this one is", hidden=True)
    log_level: Literal["debug", "info", "warning", "error"] = setting("info", "to stderr: debug, info, warning, error")

    def __post_init__(self):
        super().__post_init__()
        Limits.__post_init__(self)
        check_least(self)
        check_name(self.engine)
        if not 0 <= self.port <= 65535:  # some systems would take the rest of the division by 65536
            raise UserError(f"--port {self.port}: a port is a number from 0 to 65535")
        self._check_replicas()

    def _check_replicas(self) -> None:
        replicas = self.replicas
        if replicas is None or replicas == "auto":
            return
        numbers = replicas.split(":", 1)
        if all(map(str.isdecimal, numbers)) and 0 < int(numbers[0]) <= int(numbers[-1]):
            return
        if not all("://" in url for url in replicas.split(",")):
            raise UserError(
                f"--replicas {replicas}: give a number, LEAST:MOST such as 1:4, auto, or addresses of servers: "
                "http://one:8000,http://two:8000"
            )
        for name in ("model", "files", "record_folder", "keep_sessions"):
            if getattr(self, name):
                flag = f"--{name.replace('_', '-')}"
                raise UserError(f"{flag} is for the servers that --replicas names: give it to them")

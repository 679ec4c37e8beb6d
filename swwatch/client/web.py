"""The addresses beside the socket: what a server has, uploads, recordings."""

from pathlib import Path

import httpx

from swwatch.client.address import Address
from swwatch.client.errors import ServerError, Unreachable
from swwatch.client.protocol import Upload
from swwatch.errors import UserError

TRANSFER_S = 60.0  # how long a transfer may stand still


class Web:
    """A server's HTTP side."""

    def __init__(self, address: Address, timeout_s: float):
        self._address, self._timeout = address, httpx.Timeout(timeout_s, read=TRANSFER_S, write=TRANSFER_S)

    async def info(self) -> dict:
        """Variants, engines, limits, sources: see docs/protocol.md."""
        return (await self._ask("GET", "/api/info")).json()

    async def files(self) -> list[str]:
        """Videos in the server's folder, for `open(source=File(...))`."""
        return (await self._ask("GET", "/api/files")).json()["files"]

    async def upload(self, path: str | Path) -> Upload:
        """Send a video, for `open(source=...)`. Raises UserError: no such file."""
        try:
            file = open(path, "rb")
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
        with file:
            answer = await self._ask("POST", "/api/uploads", files={"file": (Path(path).name, file)})
        return Upload(kind="upload", id=answer.json()["id"])

    async def delete(self, upload: Upload) -> None:
        """Remove an upload; the server does it by itself after a while."""
        await self._ask("DELETE", f"/api/uploads/{upload.id}")

    async def recording(self, name: str, kind: str = "jsonl") -> str:
        """A recorded session, "jsonl" or "vtt"; `End.recording` is its name."""
        return (await self._ask("GET", f"/api/recordings/{name}.{kind}")).text

    async def _ask(self, method: str, path: str, **how) -> httpx.Response:
        base = self._address.base
        try:
            async with httpx.AsyncClient(timeout=self._timeout, trust_env=self._address.may_proxy) as client:
                answer = await client.request(method, base + path, headers=self._address.headers, **how)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            why = error or type(error).__name__
            raise Unreachable(f"cannot reach {base}: {why}; is `swwatch serve` running there?") from error
        if not answer.is_success:
            raise _refusal(base, answer)
        return answer


def _refusal(base: str, answer: httpx.Response) -> UserError:
    try:
        body = answer.json()["error"]
        return ServerError(body["code"], body["message"])
    except (ValueError, KeyError, TypeError):  # not one of ours
        return Unreachable(f"{base} answers with HTTP {answer.status_code}: is a swwatch server there?")

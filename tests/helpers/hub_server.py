"""A loopback server in the form of the Hugging Face hub: one data set repository, as huggingface_hub asks for it.

Like the real one: the tree is listed in pages joined by `Link` headers; `resolve` answers HEAD with a redirect to a
storage host of another name (so the client drops its token), and carries `X-Repo-Commit`, `X-Linked-Etag` and
`X-Linked-Size`; storage answers `Range`; a gated repository shows its tree to all and refuses `resolve`. Unlike it:
no Xet headers, so transfers take the plain path that the library takes without `hf_xet`.
"""

import hashlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = hashlib.sha1(b"a commit").hexdigest()
PAGE = 2
GATED = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this dataset is restricted."}


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, repo_id: str, files: dict[str, bytes], token: str | None = None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repo_id, self.files, self.token = repo_id, files, token
        self.requests: list[tuple[str, str]] = []  # method and path
        self.stored_tokens: list[str | None] = []  # what storage was shown; never a token
        self.before_storage: Callable[[str], None] = lambda path: None
        self.break_off: set[str] = set()  # files whose next transfer stops half way
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.server_close()

    def fetched(self) -> list[str]:
        """Files whose content was asked for, in order."""
        return [path.removeprefix("/storage/") for method, path in self.requests if path.startswith("/storage/")]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *arguments):
        """Say nothing."""

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        hub, url = self.server, urlsplit(self.path)
        path, query = unquote(url.path), parse_qs(url.query)
        hub.requests.append((self.command, path))
        api, resolve = f"/api/datasets/{hub.repo_id}", f"/datasets/{hub.repo_id}/resolve/{COMMIT}/"
        if path == api:
            about = {"id": hub.repo_id, "sha": COMMIT, "private": False, "gated": bool(hub.token), "siblings": []}
            self.answer(200, json.dumps(about).encode())
        elif path.startswith(f"{api}/tree/{COMMIT}/"):
            self.tree(path.removeprefix(f"{api}/tree/{COMMIT}/"), int(query.get("cursor", ["0"])[0]))
        elif path.startswith(resolve) and path.removeprefix(resolve) in hub.files:
            self.resolve(path.removeprefix(resolve))
        elif path.startswith("/storage/"):
            self.storage(path.removeprefix("/storage/"))
        elif path.startswith((api, resolve)):
            self.answer(404, headers={"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
        elif self.headers.get("Authorization"):
            self.answer(404, headers={"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        else:  # the hub does not tell strangers whether a repository exists
            self.answer(401, headers={"X-Error-Message": "Invalid username or password."})

    def tree(self, folder: str, start: int) -> None:
        inside = {path for path in self.server.files if path.startswith(f"{folder}/")}
        if not inside:
            return self.answer(404, headers={"X-Error-Code": "EntryNotFound", "X-Error-Message": "no such folder"})
        rows = []
        for path in sorted(inside, reverse=True):  # the order of the listing shall not matter
            content = self.server.files[path]
            lfs = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
            row = {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            rows.append(row | ({"lfs": lfs} if path.endswith(".tar") else {}))
        rows.append({"type": "directory", "path": f"{folder}/more.tar", "oid": COMMIT, "size": 0})
        headers = {"Content-Type": "application/json"}
        if start + PAGE < len(rows):
            url = f"{self.server.url}{urlsplit(self.path).path}?recursive=False&cursor={start + PAGE}"
            headers["Link"] = f'<{url}>; rel="next"'
        self.answer(200, json.dumps(rows[start : start + PAGE]).encode(), headers)

    def resolve(self, path: str) -> None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if self.server.token and token != self.server.token:
            return self.answer(403 if token else 401, headers=GATED)
        content = self.server.files[path]
        self.answer(
            302,
            headers={
                "Location": f"http://localhost:{self.server.server_port}/storage/{path}",
                "X-Repo-Commit": COMMIT,
                "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
                "X-Linked-Size": str(len(content)),
            },
        )

    def storage(self, path: str) -> None:
        self.server.stored_tokens.append(self.headers.get("Authorization"))
        self.server.before_storage(path)
        content, status, headers = self.server.files[path], 200, {}
        if span := self.headers.get("Range"):
            start = int(span.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            content, status = content[start:], 206
        if path in self.server.break_off:
            self.server.break_off.discard(path)
            self.close_connection = True
            headers["Content-Length"] = str(len(content))
            content = content[: len(content) // 2]
        self.answer(status, content, headers)

"""In place of a replica's process: one that tells that it is well, and how many sessions it was told to have."""

import json
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from swwatch.errors import UserError


class Health(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/sessions/"):
            self.server.sessions = int(self.path.rpartition("/")[2])
        body = json.dumps({"sessions": self.server.sessions, "places": self.server.places}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def serve(settings, tell) -> None:
    """As command.serve_one. The second of those whose model is `broken` cannot be started, of `slow` it takes long."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if settings.model == ["broken"] and settings.replica == 1:
        raise UserError("no checkpoint there: give another --model")
    if settings.model == ["slow"] and settings.replica == 1:
        time.sleep(600)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Health)
    server.places, server.sessions = settings.max_sessions, 0
    tell(server.server_port)
    server.serve_forever()

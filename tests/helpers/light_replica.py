"""In place of a replica's process: one that tells that it is well, and nothing else."""

import json
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from swwatch.errors import UserError


class Health(BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"sessions": 0, "places": self.server.places}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def serve(settings, tell) -> None:
    """As command.serve_one. The second of those whose model is called `broken` cannot be started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if settings.model == ["broken"] and settings.replica == 1:
        raise UserError("no checkpoint there: give another --model")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Health)
    server.places = settings.max_sessions
    tell(server.server_port)
    server.serve_forever()

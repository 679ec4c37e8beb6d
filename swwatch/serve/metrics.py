"""What Prometheus is told. Names end in their unit, as its own habits ask."""

from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest

FORM = "text/plain; version=0.0.4; charset=utf-8"  # of what is answered
LAG_BUCKETS_S = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30)


class Metrics:
    """The counters of one server."""

    def __init__(self):
        self.registry = CollectorRegistry()
        make = {"registry": self.registry}
        ProcessCollector(**make)  # memory, CPU time, open files
        Info("swwatch_build", "what runs here", **make).info({"version": version("swwatch")})
        self.sessions = Gauge("swwatch_sessions", "sessions that stand, connected or within their grace", **make)
        self.connections = Gauge("swwatch_connections", "WebSocket connections", **make)
        self.opened = Counter("swwatch_sessions_opened", "sessions begun", ["variant", "engine"], **make)
        self.ended = Counter("swwatch_sessions_ended", "sessions over, by reason", ["reason"], **make)
        self.resumed = Counter("swwatch_sessions_resumed", "connections that went on with a session", **make)
        self.frames = Counter("swwatch_frames", "frames that came in", **make)
        self.refused = Counter("swwatch_frames_refused", "frames that were not taken, by reason", ["reason"], **make)
        self.steps_dropped = Counter("swwatch_steps_dropped", "steps that the model did not see", **make)
        self.steps = Counter("swwatch_steps_watched", "steps that the model took in", **make)
        self.tokens = Counter("swwatch_tokens", "tokens spoken", **make)
        self.token_lag = Histogram(
            "swwatch_token_lag_seconds",
            "emission of a token minus arrival of the newest step it could see",
            buckets=LAG_BUCKETS_S,
            **make,
        )
        self.errors = Counter("swwatch_errors", "errors told to clients, by code", ["code"], **make)
        self.requests = Counter("swwatch_http_requests", "HTTP requests", ["route", "status"], **make)
        self.upload_bytes = Gauge("swwatch_upload_bytes", "uploaded files on disk", **make)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)

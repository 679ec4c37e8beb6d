"""What those who look after a server are told: metrics in Prometheus' habits, nothing of what users show or say."""

import json
import re
import subprocess
import sys

from prometheus_client.parser import text_string_to_metric_families

from swwatch.serve.metrics import Metrics

TOKEN = "a-good-token"
SECRET = "marmalade"


def families(text: str) -> dict:
    return {family.name: family for family in text_string_to_metric_families(text)}


def test_names_follow_the_habits_of_prometheus():
    """https://prometheus.io/docs/practices/naming: a prefix, base units, _total for counters, no label in a name."""
    found = families(Metrics().text().decode())
    ours = {name: family for name, family in found.items() if name.startswith("swwatch_")}
    assert len(ours) >= 14 and all(name.startswith("process_") for name in found.keys() - ours.keys())
    for name, family in ours.items():
        assert re.fullmatch(r"[a-z]+(_[a-z]+)+", name) and family.documentation
        assert not re.search(r"_(ms|milliseconds|minutes|kb|mb|percent|count|sum|bucket)$", name), name
        if family.type == "counter":
            assert all(sample.name.endswith(("_total", "_created")) for sample in family.samples)
        for sample in family.samples:
            assert all(not name.endswith(f"_{label}") for label in sample.labels)
    assert ours["swwatch_token_lag_seconds"].type == "histogram" and "process_resident_memory_bytes" in found


def test_neither_metrics_nor_logs_tell_what_was_shown_asked_or_said_nor_any_secret(strict, client, picture):
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    connection = client(
        server=strict, open={"question": f"{SECRET}?"}, subprotocols=["swwatch.v1", f"swwatch.token.{TOKEN}"]
    )
    opened = connection.until("opened")
    connection.send(type="ask", question=f"more {SECRET}?")
    connection.frame(0, data=picture(0) + SECRET.encode())
    connection.frame(1)
    words = connection.until("token").text + "".join(connection.until("token").text for _ in range(2))
    connection.socket.send(json.dumps({"type": SECRET}))
    connection.until("error")
    connection.frame(2, data=SECRET.encode())
    connection.until("error")
    connection.send(type="stop")
    connection.until("end")
    wrong = client(
        server=strict, url=f"{strict.ws_url}?token={SECRET}-token", subprotocols=[f"swwatch.token.{SECRET}"]
    )
    assert wrong.next().code == "unauthorised"
    _, upload = strict.upload(SECRET.encode(), **bearer)
    strict.get(f"/api/uploads/{upload['id']}?token={TOKEN}", "DELETE")
    strict.get(f"/{SECRET}?token={TOKEN}")
    strict.get("/api/info", Authorization=f"Bearer {SECRET}-token")

    metrics = strict.get("/metrics", **bearer)[1].decode()
    for text in (strict.log.read_text(), metrics):
        assert SECRET not in text and TOKEN not in text and opened.session not in text and upload["id"] not in text
        assert len(words) < 4 or words not in text
    values = [sample for family in families(metrics).values() for sample in family.samples]
    assert len(values) < 200, "labels are few, whatever clients send"


def test_lines_of_the_libraries_have_the_same_form():
    """In a process of its own, since it is the process's logging that is set up."""
    program = """
import logging, warnings
from swwatch.serve.log import log, to_stderr
to_stderr("info")
log("ours", place=1)
log("quiet", level=10)
logging.getLogger("asyncio").warning("socket.send() raised exception.")
logging.getLogger("uvicorn.error").info("started")
warnings.warn("old", DeprecationWarning, stacklevel=1)
"""
    done = subprocess.run([sys.executable, "-W", "always", "-c", program], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line.get("from") for line in lines] == [None, "asyncio", "py.warnings"] and lines[0]["place"] == 1

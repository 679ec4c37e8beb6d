"""A server narrates: the narrator of `swwatch watch --server`."""

import os
from collections.abc import Iterator

from swwatch.client import Client, File, Url
from swwatch.narrate.latency import kind_of
from swwatch.rules.schedule import seconds_of_step


class ServerNarrator:
    """A session on a server, with the methods of local.LocalNarrator. A context manager."""

    def __init__(self, settings):
        """Args: settings: command.WatchSettings."""
        self._client = Client(settings.server, token=settings.token or os.environ.get("SWWATCH_TOKEN"))
        source = None
        if settings.remote:
            is_url = "://" in settings.source
            source = Url(kind="url", url=settings.source) if is_url else File(kind="file", name=settings.source)
        how = {"variant": settings.variant, "schedule": settings.schedule, "question": settings.question}
        how["engine"] = None if settings.engine == "auto" else settings.engine
        try:
            self.notes = self._client.info()["notes"]
            opened = self._client.open(source=source, **how)
        except BaseException:
            self._client.close()
            raise
        how = ", ".join(filter(None, [opened.variant, opened.schedule]))  # chat turns have no schedule
        self.about = f"{how} | {opened.question}\nengine {opened.engine}: {opened.why}"
        self.step_s = seconds_of_step(opened.fps)
        self.ask, self.pause, self.resume = self._client.ask, self._client.pause, self._client.resume
        self.stop, self.end = self._client.stop, self._client.end
        self._frames_dropped = 0

    def watch(self, frames) -> Iterator:
        for event in self._client if frames is None else self._client.watch(frames):
            if kind_of(event) == "stats":
                self._frames_dropped = event.frames_dropped
            yield event

    def summary(self) -> str:
        counts, end = self._client.counts, self._client.end_message
        sent = f"frames sent {counts.sent}, skipped {counts.skipped}, lost {counts.lost}"
        dropped = max(counts.dropped, self._frames_dropped)
        return f"{sent}; dropped there {dropped}; tokens {end.tokens if end else 0}"

    def __enter__(self) -> "ServerNarrator":
        return self

    def __exit__(self, *_) -> None:
        self._client.close()

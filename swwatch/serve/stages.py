"""The models that a server holds: one stage for each checkpoint and engine that somebody asked for."""

import threading
from collections import Counter
from dataclasses import dataclass, replace

from swwatch.client.codes import ProtocolError
from swwatch.engine.choose import AUTO, ENGINES, check
from swwatch.errors import UserError
from swwatch.live.stage import Capacity, Stage
from swwatch.model.loading import Loaded
from swwatch.policies.speak import check_schedule
from swwatch.serve.log import log


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model under the name that people know it by.

    Attributes:
        content: its weights, their type and the policies of its sessions, for those who keep these.
    """

    name: str
    loaded: Loaded
    content: str = ""

    @property
    def variant(self) -> str:
        return self.loaded.settings.variant

    @property
    def engines(self) -> list[str]:
        """Those that can run its variant."""

        def can_run(engine: str) -> bool:
            try:
                check(engine, self.variant)
            except UserError:
                return False
            return True

        return [engine for engine in ENGINES if can_run(engine)]

    def check_schedule(self, schedule: str) -> None:
        """Raises: UserError: its variant cannot speak by it, or was not trained for it where it must have been."""
        check_schedule(schedule, self.variant).check_trained(self.loaded.settings.schedule, "the model")


def with_own_names(checkpoints: list[Checkpoint]) -> list[Checkpoint]:
    """The same checkpoints; those that share a name, such as one folder under two variants, say their variant too."""
    count = Counter(checkpoint.name for checkpoint in checkpoints)
    return [replace(one, name=f"{one.name} ({one.variant})") if count[one.name] > 1 else one for one in checkpoints]


class Stages:
    """Stages by variant and engine, made when they are first asked for."""

    def __init__(
        self, checkpoints: list[Checkpoint], *, engine: str, max_sessions: int, capacity: Capacity, make=Stage
    ):
        """
        Args:
            checkpoints: of different variants; the first is the default.
            engine: the default one, or "auto".
            capacity: of each session, see `Stage`.
            make: called as `Stage` is; for tests.
        Raises:
            UserError: two checkpoints of one variant.
        """
        self.engine, self._make = engine, make
        self._options = {"max_sessions": max_sessions, "capacity": capacity}
        self._stages: dict[tuple[str, str], Stage] = {}
        self._lock = threading.Lock()
        seen: dict[str, str] = {}
        for checkpoint in checkpoints:
            if checkpoint.variant in seen:
                raise UserError(
                    f"{checkpoint.name} and {seen[checkpoint.variant]} are both {checkpoint.variant}: give one of them"
                )
            seen[checkpoint.variant] = checkpoint.name
        self.checkpoints = with_own_names(checkpoints)

    def find(self, variant: str | None) -> Checkpoint:
        """The checkpoint of a variant; None for the default. Raises ProtocolError: unsupported."""
        for checkpoint in self.checkpoints:
            if variant in (None, checkpoint.variant):
                return checkpoint
        message = f"this server has no such variant: choose one of {self._names()}"
        raise ProtocolError("unsupported", message, fatal=True)

    def named(self, name: str) -> Checkpoint:
        """A checkpoint by its own name or its variant's. Raises ProtocolError: not_found."""
        for checkpoint in self.checkpoints:
            if name in (checkpoint.variant, checkpoint.name):
                return checkpoint
        raise ProtocolError("not_found", f"no such model: choose one of {self._names()}", param="model")

    def _names(self) -> str:
        return ", ".join(checkpoint.variant for checkpoint in self.checkpoints)

    def get(self, checkpoint: Checkpoint, engine: str | None) -> Stage:
        """The stage of a checkpoint and an engine. May take long, so not for the event loop.

        Raises:
            ProtocolError: unsupported, when there is no such engine or it cannot run this variant.
        """
        engine = engine or self.engine
        if engine not in (AUTO, *ENGINES):
            known = ", ".join(ENGINES)
            raise ProtocolError("unsupported", f"no such engine: choose one of {known}", fatal=True, param="engine")
        with self._lock:
            key = checkpoint.variant, engine
            if key in self._stages and not self._stages[key].alive:  # it told its sessions why
                log("stage ended; making another", level=40, variant=checkpoint.variant, engine=engine)
                del self._stages[key]
            if key not in self._stages:
                try:
                    self._stages[key] = self._make(checkpoint.loaded, engine=engine, **self._options)
                except UserError as error:
                    raise ProtocolError("unsupported", str(error), fatal=True, param="engine") from error
            return self._stages[key]

    def begin(self) -> None:
        """Make the default stages, so that what cannot run is told before anybody comes. Raises UserError."""
        for checkpoint in self.checkpoints:
            try:
                self.get(checkpoint, None)
            except ProtocolError as error:
                raise UserError(f"{checkpoint.name}: {error.message}") from error

    def close(self, timeout_s: float = 5.0) -> None:
        """End every session and stop the models' threads."""
        with self._lock:
            for stage in self._stages.values():
                stage.close(timeout_s=timeout_s)
            self._stages.clear()

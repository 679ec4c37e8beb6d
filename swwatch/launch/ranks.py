"""Several processes share one evaluation, and the few numbers that they need for it.

Under torchrun or Slurm every process is a rank. They meet at one key-value store (torch's TCPStore, at rank 0 or at
torchrun's agent) and share counters: which clip is next, how many were skipped. Nothing else is exchanged, so no rank
ever waits for another's clip. One process alone uses no network at all.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import timedelta

from swwatch.errors import UserError
from swwatch.launch.place import place_of
from swwatch.launch.signals import Preempted, die_with_parent

CONNECT_S = 300  # the processes of a large job do not start at the same moment
BEAT_S, PATIENCE_S, POLL_S = 5.0, 60.0, 0.2
SIGNALLED = "stopped by a signal"  # what the others are told in place of an error


def join(env: Mapping[str, str]) -> "SingleProcess | Team":
    """The ranks of this evaluation, this process among them."""
    place = place_of(env)
    if place.size == 1:
        return SingleProcess()
    if "LOCAL_RANK" in env:
        die_with_parent()
    from torch.distributed import PrefixStore, TCPStore

    try:
        store = TCPStore(
            place.address,
            place.port,
            is_master=place.hosts_store,
            wait_for_workers=False,
            timeout=timedelta(seconds=CONNECT_S),
        )
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"rank {place.rank} cannot meet the others at {place.address}:{place.port} ({reason}): "
            "check MASTER_ADDR and MASTER_PORT, and that rank 0 is running"
        ) from error
    attempt = env.get("TORCHELASTIC_RESTART_COUNT", "0")  # torchrun's store outlives its workers
    return Team(PrefixStore(f"swwatch/{attempt}", store), place.rank, place.size, place.local_rank)


class SingleProcess:
    """One process: the counters are its own and there is nobody to wait for."""

    rank, size, local_rank = 0, 1, 0

    def __init__(self):
        self._counts = Counter()

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        pass

    def add(self, name: str, amount: int = 1) -> int:
        """Raise a shared counter; its new value."""
        self._counts[name] += amount
        return self._counts[name]

    def tell(self, keys: list[str]) -> None:
        """Rank 0 tells all others what was done before."""

    def leave(self) -> None:
        """This rank has written its last result."""

    def wait_for_all(self) -> None:
        """Rank 0: until every other rank has left."""


class Team(SingleProcess):
    """This process among several. Leave the `with` block by an error and all others stop at their next clip.

    Args:
        store: a torch.distributed store that all ranks reach.
        beat_s, patience_s: how often a rank gives a sign of life, and after what silence it counts as lost.
    """

    def __init__(self, store, rank: int, size: int, local_rank: int = 0, *, beat_s=BEAT_S, patience_s=PATIENCE_S):
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self._store, self._patience_s = store, patience_s
        self._stop = threading.Event()
        self._beats = threading.Thread(target=self._beat, args=(beat_s,), daemon=True)

    def __enter__(self):
        self._beats.start()
        return self

    def __exit__(self, kind, error, trace) -> None:
        self._stop.set()
        self._beats.join()
        if error is None or isinstance(error, Stopped):
            return
        text = str(error) if isinstance(error, UserError) else f"{kind.__name__}: {error}"
        if isinstance(error, Preempted):
            text = SIGNALLED
        try:
            first = self._store.compare_set("failed", "", f"rank {self.rank}: {text}").decode()
        except RuntimeError:
            return  # the store is gone, and with it who could be told; the error itself goes on to the user
        if isinstance(error, UserError) and first != f"rank {self.rank}: {text}" and first.endswith(f": {text}"):
            raise SystemExit(2) from error  # another rank has told the very same

    def add(self, name: str, amount: int = 1) -> int:
        """Raise a shared counter; its new value.

        Raises:
            Stopped: another rank has failed, or the store is gone. Preempted: a signal stopped another rank.
        """
        self._look_around()
        return self._ask("add", f"count/{name}", amount)

    def tell(self, keys: list[str]) -> None:
        self._ask("set", "told", json.dumps(keys))

    def hear(self) -> list[str]:
        """What rank 0 tells, when it does."""
        self._wait_for([0], lambda rank: "told")
        return json.loads(self._ask("get", "told"))

    def leave(self) -> None:
        self._look_around()
        self._ask("set", f"left/{self.rank}", "1")

    def wait_for_all(self) -> None:
        """Rank 0: until every other rank has left."""
        self._wait_for([rank for rank in range(self.size) if rank != self.rank], lambda rank: f"left/{rank}")

    def _wait_for(self, ranks: list[int], key_of: Callable[[int], str]) -> None:
        """Until each of these ranks has set its key.

        Raises:
            Stopped: a rank has failed. UserError: one that is waited for is silent.
        """
        heard = {rank: (None, time.monotonic()) for rank in ranks}
        while heard:
            self._look_around()
            for rank, (beats, since) in list(heard.items()):
                now = self._ask("add", f"beats/{rank}", 0)
                if self._ask("check", [key_of(rank)]):
                    del heard[rank]
                elif now != beats:
                    heard[rank] = now, time.monotonic()
                elif time.monotonic() - since > self._patience_s:
                    raise UserError(
                        f"rank {rank} has given no sign of life for {self._patience_s:g} s: was it killed? "
                        "Give the same command again: finished clips are kept"
                    )
            if heard:
                time.sleep(POLL_S)

    def _look_around(self) -> None:
        if self._ask("check", ["failed"]):
            reason = self._ask("get", "failed").decode()
            if reason.endswith(f": {SIGNALLED}"):
                raise Preempted
            raise Stopped(f"rank {self.rank} stops because another failed, {reason}")

    def _ask(self, method: str, *args):
        try:
            return getattr(self._store, method)(*args)
        except RuntimeError as error:
            raise Stopped(
                f"rank {self.rank} lost the others: the process that holds their store has ended, see its message. "
                "Give the same command again: finished clips are kept"
            ) from error

    def _beat(self, every_s: float) -> None:
        while not self._stop.is_set():
            try:
                self._store.add(f"beats/{self.rank}", 1)
            except RuntimeError:
                return  # the main thread meets the same and tells it
            self._stop.wait(every_s)


class Stopped(UserError):
    """This rank ends because of another."""

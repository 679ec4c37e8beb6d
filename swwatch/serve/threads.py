"""The two pools of threads: one waits for models' events and for sources, one decodes pictures, in fair turns."""

import asyncio
import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

FORGOTTEN_S = 10.0  # after so long half of what was spent counts


class DecodingTime:
    """The time that was spent on a session's pictures lately."""

    def __init__(self, now=time.monotonic):
        self._now, self._spent_s, self._at_s = now, 0.0, now()

    def seconds(self, more_s: float = 0.0) -> float:
        """Add some, and tell how much it is now."""
        now_s = self._now()
        self._spent_s = self._spent_s * 0.5 ** ((now_s - self._at_s) / FORGOTTEN_S) + more_s
        self._at_s = now_s
        return self._spent_s


class Threads:
    """Of one server. All methods belong to its event loop."""

    def __init__(self, max_sessions: int, decoders: int = 2):
        self._readers = ThreadPoolExecutor(max_sessions + 2, thread_name_prefix="events")
        self._decoders = ThreadPoolExecutor(decoders, thread_name_prefix="pictures")
        self._free = decoders
        self._waiting: list[tuple[DecodingTime, asyncio.Future]] = []  # in the order in which they came

    def read(self, function, *args):
        return asyncio.get_running_loop().run_in_executor(self._readers, function, *args)

    async def decode(self, decoding_time: DecodingTime, function, *args):
        """Call a function in a thread, when it is the turn of its session: of those that wait, the one on which the
        least time was spent lately."""
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._waiting.append((decoding_time, turn))
        self._give_turns()
        try:
            await turn
        except asyncio.CancelledError:
            self._free += turn.done() and not turn.cancelled()
            self._give_turns()
            raise
        began_s = time.monotonic()
        job = self._decoders.submit(function, *args)

        def done(_) -> None:
            with contextlib.suppress(RuntimeError):  # the server has stopped meanwhile
                loop.call_soon_threadsafe(self._end_turn, decoding_time, time.monotonic() - began_s)

        job.add_done_callback(done)  # also where nobody waits for it any more
        return await asyncio.wrap_future(job)

    def _give_turns(self) -> None:
        self._waiting = [one for one in self._waiting if not one[1].done()]
        while self._free and self._waiting:
            least = min(self._waiting, key=lambda one: one[0].seconds())
            self._waiting.remove(least)
            least[1].set_result(None)
            self._free -= 1

    def _end_turn(self, decoding_time: DecodingTime, took_s: float) -> None:
        decoding_time.seconds(took_s)
        self._free += 1
        self._give_turns()

    def close(self) -> None:
        for pool in (self._readers, self._decoders):
            pool.shutdown(wait=False, cancel_futures=True)

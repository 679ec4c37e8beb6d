"""The parent's side of bench/worker.py: start a row's process, ask it for steps, end it."""

import multiprocessing

from swwatch.bench.train import worker
from swwatch.bench.train.settings import BenchSettings, Row

GRACE_S = 60.0  # to end by itself


class RowProcess:
    """A row in a process of its own.

    Attributes:
        problem: why it gives no figures; None while all is well. Requests are then answered with None or {}.
    """

    def __init__(self, settings: BenchSettings, row: Row, length: int | None):
        context = multiprocessing.get_context("spawn")  # a forked child would share memory and CUDA with this process
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=worker.serve, args=(settings, row, length, theirs), daemon=True)
        self.process.start()
        theirs.close()  # so that its death is noticed here
        self.problem: str | None = None

    def facts(self) -> dict:
        return self._answer() or {}

    def step(self) -> dict | None:
        return self._ask("step")

    def memory(self) -> dict | None:
        return self._ask("end")

    def _ask(self, request: str) -> dict | None:
        if self.problem:
            return None
        try:
            self.pipe.send(request)
        except OSError:
            return self._died()
        return self._answer()

    def _answer(self) -> dict | None:
        try:
            kind, content = self.pipe.recv()
        except EOFError:
            return self._died()
        if kind == "cannot":
            self.problem = content
            return None
        return content

    def _died(self) -> None:
        self.process.join(GRACE_S)
        self.problem = f"its process ended with code {self.process.exitcode} (-9: killed, often for memory)"

    def close(self) -> None:
        self.pipe.close()
        self.process.join(GRACE_S)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join()

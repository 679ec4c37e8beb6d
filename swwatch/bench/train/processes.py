"""The parent's side of worker.py: start a row's process, ask it for steps, end it."""

import multiprocessing

from swwatch.bench.train import worker
from swwatch.bench.train.settings import TrainBenchSettings, TrainRow

GRACE_S = 60.0  # to end by itself


class RowProcess:
    """A row in a process of its own.

    Attributes:
        problem: why it gives no figures; None while all is well.
    """

    def __init__(self, settings: TrainBenchSettings, row: TrainRow, length: int | None):
        context = multiprocessing.get_context("spawn")  # a forked child would share memory and CUDA with this process
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=worker.serve, args=(settings, row, length, theirs), daemon=True)
        self.process.start()
        theirs.close()  # so that its death is noticed here
        self.problem: str | None = None

    def ask(self, request: str | None) -> dict:
        """The answer to "step" or "end", or to None: what it says unasked, when it is ready. {} after a problem."""
        if self.problem:
            return {}
        try:
            if request is not None:
                self.pipe.send(request)
            kind, content = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(GRACE_S)
            self.problem = f"its process ended with code {self.process.exitcode} (-9: killed, often for memory)"
            return {}
        if kind == "cannot":
            self.problem = content
            return {}
        return content

    def close(self) -> None:
        self.pipe.close()
        self.process.join(GRACE_S)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join()

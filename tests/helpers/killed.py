"""A process that is killed at any moment of its work with files."""

import os
import signal
import sys
import threading

OPERATIONS = set("open write writelines flush fsync sendfile replace unlink mkdir rmdir close __exit__".split())


class KillBefore:
    """Kills this process just before its `steps`-th file operation, of all threads that begin from now on and of this.

    Attributes:
        done: operations so far.
    """

    def __init__(self, steps: int):
        self.steps, self.done = steps, 0
        threading.setprofile(self._count)
        sys.setprofile(self._count)

    def _count(self, frame, event, function) -> None:
        if event == "c_call" and function.__name__ in OPERATIONS:
            self.done += 1
            if self.done == self.steps:
                os.kill(os.getpid(), signal.SIGKILL)

"""One of several training processes, as torchrun starts it: `swwatch train`, whose exit code is sure to arrive."""

import atexit
import os
import sys
from typing import NoReturn

from swwatch.errors import run
from swwatch.train.command import main


def leave(code: int) -> NoReturn:
    """End this process with a code, all being done and written.

    Threads of the communication libraries may still be ending when Python takes itself down, and then abort the
    process: torchrun would report -6 in place of the code that says that the run continues.
    """
    atexit._run_exitfuncs()  # what trackers have registered
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(run(main, sys.argv[1:]))

"""One of several processes, as torchrun starts it: a program whose exit code is sure to arrive."""

import atexit
import importlib
import os
import sys
from typing import NoReturn

from swwatch.errors import run
from swwatch.launch.signals import die_with_parent


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
    parent, module, *options = sys.argv[1:]
    die_with_parent(int(parent))  # before what takes long: whoever is killed with kill -9 leaves nobody behind
    leave(run(importlib.import_module(module).main, options))

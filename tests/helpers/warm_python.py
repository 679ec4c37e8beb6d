"""A stand-in for Python that has imported all there is: for scripts that start many small programs, which would spend
most of their time on imports. Whatever it is asked to run is a fork of one process, one after the other; it knows
files, `-m` and `-c`."""

import json
import os
import runpy
import socket
import sys
import traceback
from pathlib import Path

from tests.helpers.forked import FROM

CLIENT = """#!{python} -ISs
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    task = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [b"."], [0, 1, 2])
    server.sendall(task)
    server.shutdown(socket.SHUT_WR)
    code = server.makefile().read()
sys.exit(int(code or 70))
"""


class WarmPython:
    """Attributes: path: of an executable to call in place of Python, while this is open."""

    def __init__(self, folder: Path):
        """Args: folder: an empty one, whose path is short enough for a socket's."""
        address = str(folder / "socket")
        self.path = folder / "python"
        self.path.write_text(CLIENT.format(python=sys.executable, address=address))
        self.path.chmod(0o755)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address)
        listener.listen()
        self._process = FROM.Process(target=_serve, args=(listener,))
        self._process.start()

    def __enter__(self) -> "WarmPython":
        return self

    def __exit__(self, *_) -> None:
        self._process.kill()
        self._process.join()


def _serve(listener: socket.socket) -> None:
    """One after the other."""
    while True:
        connection, _ = listener.accept()
        with connection:
            _, files, *_ = socket.recv_fds(connection, 1, 3)
            task = json.loads(connection.makefile().read())
            child = os.fork()
            if child == 0:
                _become(files, *task)
            for file in files:
                os.close(file)
            _, status = os.waitpid(child, 0)
            code = os.waitstatus_to_exitcode(status)
            connection.sendall(b"%d" % (code if code >= 0 else 128 - code))


def _become(files: list[int], arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    """Run what Python was asked to run, and end."""
    from swwatch.launch.worker import leave

    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    try:
        _run(*arguments)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    leave(code)


def _run(how: str, *arguments: str) -> None:
    if how == "-m":
        sys.argv[:] = arguments
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    elif how == "-c":
        sys.argv[:] = [how, *arguments[1:]]
        exec(arguments[0], {"__name__": "__main__"})
    else:
        sys.argv[:] = [how, *arguments]
        runpy.run_path(how, run_name="__main__")

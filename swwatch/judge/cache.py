"""Every answer on disk, one file each under the hash of its question: nothing is paid for twice."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from swwatch.data.annotations import write_atomic
from swwatch.errors import UserError
from swwatch.judge.client import Reply
from swwatch.paths import make_folder, try_lock

LOOK_AGAIN_S = 0.2  # while another process asks the same question


class AnswerCache:
    """Answers by content: the endpoint and the whole request, never the key.

    A kill leaves whole entries only (written aside, then renamed), and several processes may share a folder.

    Args:
        folder: made where it is missing.
    Raises:
        UserError: it cannot be made or written to.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        make_folder(self.folder)

    def get(self, key: str) -> Reply | None:
        """The answer kept under `key`; a damaged entry counts as none and is replaced by the next `put`."""
        try:
            return Reply(**json.loads(self._path(key).read_text(encoding="utf-8"))["answer"])
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(f"cannot read an answer in {self.folder}: {error}; give --cache for another") from error
        except (ValueError, KeyError, TypeError):
            return None

    def put(self, key: str, endpoint: str, request: dict, answer: Reply) -> None:
        """Keep an answer, with the question for a reader's eyes. Only the holder of `claim(key)` may do so."""
        entry = {"endpoint": endpoint, "request": request, "answer": asdict(answer)}
        try:
            write_atomic(self._path(key), [json.dumps(entry, indent=1) + "\n"])
        except OSError as error:
            raise UserError(f"cannot keep an answer in {self.folder}: {error}; make room or give --cache") from error

    @contextlib.contextmanager
    def claim(self, key: str, sleep: Callable[[float], object]) -> Iterator[None]:
        """Hold the right to ask one question, so that no other thread or process asks it meanwhile.

        The right ends with the process, however that ends. Look with `get` after claiming: who held it before may
        have stored the answer.

        Args:
            sleep: waits between two looks; may raise to give up.
        """
        path = self._path(key).with_suffix(".lock")
        try:
            path.parent.mkdir(exist_ok=True)
            while (file := try_lock(path)) is None:
                sleep(LOOK_AGAIN_S)
        except OSError as error:
            raise UserError(f"cannot write to {path.parent}: {error}; give --cache for another folder") from error
        with file:
            try:
                yield
            finally:
                path.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def question_key(endpoint: str, request: dict) -> str:
    """SHA-256 over the endpoint and the whole request (model, messages, temperature, limits)."""
    text = json.dumps({"endpoint": endpoint, "request": request}, sort_keys=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()

"""The one error type for what a user can get wrong, and how a program tells it."""

import errno
import logging
import os
import re
import shutil
import sys
from pathlib import Path

NO_ROOM = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota of this user is used up",
    errno.EFBIG: "a file may not be as large (see `ulimit -f`)",
}
NO_RIGHT = {
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "this user has no right to",
    errno.EPERM: "this user has no right to",
}
# what the writers of safetensors and tokenizers (Rust), and of torch, make of the same; they have no errno
_NUMBER = re.compile(r"(?:os error|code:) (\d+)")
_TORCH_WRITES = re.compile(r"unexpected pos \d+|PytorchStreamWriter failed|open file failed with strerror")


class UserError(Exception):
    """A mistake in input, flags or files. The message names the culprit and says what to do.

    The command line prints it without a traceback and exits with code 2.
    """


def disk_problem(error: Exception, folder: Path | None = None) -> str | None:
    """What a disk did not take, and what to do, where that is what an error is about; else None.

    Args:
        folder: that was written to; the error itself may know the file.
    """
    text, number = str(error), getattr(error, "errno", None) if isinstance(error, OSError) else None
    if isinstance(error, UserError):
        return None
    if isinstance(error, FileNotFoundError) and "No usable temporary directory" in text:  # what tempfile makes of it
        return f"{text}: make room in one of them, or name another folder with TMPDIR"
    if number is None and (found := _NUMBER.search(text)):
        number = int(found.group(1))
    elif number is None and _TORCH_WRITES.search(text):
        number = next((one for one in (*NO_ROOM, *NO_RIGHT) if os.strerror(one) in text), errno.ENOSPC)
    named = getattr(error, "filename2", None) or getattr(error, "filename", None)  # 2: that was copied to
    where = Path(os.fsdecode(named)).absolute().parent if isinstance(named, str | bytes) else folder
    if number in NO_RIGHT and (named or (folder and not isinstance(error, OSError))):
        return f"cannot use {os.fsdecode(named) if named else folder}: {NO_RIGHT[number]}; mend it or choose another"
    if number not in NO_ROOM:
        return None
    known = number == errno.ENOSPC and where and where.is_dir()
    free = f", {shutil.disk_usage(where).free:,} bytes are free and more are needed" if known else ""
    return (
        f"cannot write to {where or 'the disk'}: {NO_ROOM[number]}{free}. Make room or choose "
        "another folder, and give the same command again: what was whole before is kept"
    )


def run(program, argv: list[str]) -> int:
    """Call `program(argv)`; a UserError becomes one line on stderr and exit code 2."""
    # deepspeed warns on import that there is no GPU; our banners tell the device
    logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator" not in record.getMessage())
    try:
        return program(argv) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output (head, less) went away
        sys.stderr.close()
        return 141
    except Exception as error:
        if (problem := disk_problem(error)) is None:
            raise
        print(f"error: {problem}", file=sys.stderr)
        return 2

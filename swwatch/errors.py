"""The one error type for what a user can get wrong, and how a program tells it."""

import logging
import sys


class UserError(Exception):
    """A mistake in input, flags or files. The message names the culprit and says what to do.

    The command line prints it without a traceback and exits with code 2.
    """


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

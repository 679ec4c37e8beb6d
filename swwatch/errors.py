"""The one error type for what a user can get wrong."""


class UserError(Exception):
    """A mistake in input, flags or files. The message names the culprit and says what to do.

    The command line prints it without a traceback and exits with code 2.
    """

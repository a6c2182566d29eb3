"""The one exception that a user is meant to see."""


class UserError(Exception):
    """A mistake that the user can mend.

    The message is one sentence that names the file, line or value and the remedy. The command
    line prints it without a traceback and exits with status 2.
    """

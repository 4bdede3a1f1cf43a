"""The one exception for what the user can mend."""


class PruningError(Exception):
    """Something the user asked for cannot be done.

    The message is one sentence (two at most): what is wrong, with the value that was given, and what would be right.
    The command line prints it as it stands and exits with code 2; no traceback is shown.
    """

"""How a command ends that somebody stopped."""

INTERRUPTED = 130
"""Exit status of a command that Ctrl-C ended, as shells use it."""


class Stopped(Exception):  # noqa: N818 - an interruption, not an error
    """Somebody asked the command to stop, and it did; the message says what is saved."""

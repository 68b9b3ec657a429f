"""How a run ends that somebody stopped."""


class Stopped(Exception):  # noqa: N818 - an interruption, not an error
    """Somebody asked the run to stop, and it did; everything is saved."""

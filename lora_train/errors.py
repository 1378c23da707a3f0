"""The one kind of error that a person can cause, whose text is all they are shown; what is said of others."""

from __future__ import annotations


class Mistake(Exception):
    """What was given cannot work. The message names the setting or file, what was expected, the next move.

    Several complaints stand one a line. Faces show `str(mistake)` and nothing else; the command line exits
    with 2.
    """


def fault(error: Exception) -> str:
    """What is said of an error that is no person's, whose traceback the log has."""
    return (
        f"a fault of lora-train: {type(error).__name__}: {error}; the log has the traceback, please report it"
    )

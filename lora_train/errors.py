"""The one kind of error that a person can cause; its text is all they are shown."""

from __future__ import annotations


class Mistake(Exception):
    """What was given cannot work. The message names the setting or file, what was expected, the next move.

    Several complaints stand one a line. Faces show `str(mistake)` and nothing else; the command line exits
    with 2.
    """

"""The one exception for a person's mistake: shown as its sentence alone, without a traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A path, key or file that cannot be used; the message names it, what is wrong and what to do."""

    def _render_traceback_(self):
        """What a notebook shows instead of a traceback (IPython asks for this method)."""
        return [f"error: {self}"]


def closest(name: object, names: Iterable[str], otherwise: str | None = None) -> str:
    """What to add to a sentence on a wrong name: the one that was meant, or else what there is."""
    names = list(names)
    near = difflib.get_close_matches(str(name), names, n=1)
    listed = f"; there are {', '.join(names) or 'none'}" if otherwise is None else otherwise
    return f"; did you mean {near[0]}?" if near else listed

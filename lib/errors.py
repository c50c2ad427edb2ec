"""The one exception for a person's mistake: shown as its sentence alone, without a traceback."""


class UserError(Exception):
    """A path, key or file that cannot be used; the message names it, what is wrong and what to do."""

    def _render_traceback_(self):
        """What a notebook shows instead of a traceback (IPython asks for this method)."""
        return [f"error: {self}"]

"""What the browser draws and listens to: rows of pictures, and a plot that is read under the pointer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import traitlets

HERE = Path(__file__).parent


class Listener(anywidget.AnyWidget):
    """A widget whose browser's part sends events, one at a time: what happens until the answer is joined, so
    that what is seen never lags behind the hand.

    `action` is called as action(name, event); what it returns, if anything, is called once the browser has
    its answer.
    """

    _css = HERE / "panels.css"
    readout = traitlets.Unicode().tag(sync=True)

    def __init__(self, action: Callable[[str, dict], Callable | None], **options: Any):
        super().__init__(**options)
        self.action = action
        self.on_msg(self.answer)

    def answer(self, _, message: dict, buffers: list) -> None:
        later = None
        try:
            later = self.action(message["what"], message)
        finally:
            self.send({"answered": message.get("number")})
        if later:
            later()


class Panels(Listener):
    """Rows of pictures with a line above and one below, shown together as soon as all are decoded.

    frame     {"look", "index", "rows"}; slices of one look differ by their index alone; a row is
              {"heading", "panels"}, a panel {"title", "name", "cross"}: [x, y, width, height] in pixels of
              where lines cross and of the slice, or None
    pictures  JPEG bytes, one for each panel
    note      the line above; readout, the line below
    Events: "turn" {"by": slices}, "plane" {"plane"}, "size" {"px": what a panel has room for}, and with
    the number of the panel and a place in its pixels "point", "pick", "zoom" {"by": steps, 0 for all of it}
    and "pan" {"dx", "dy"}; "point" without x and y when the pointer leaves, "zoom" without for the middle.
    """

    _esm = HERE / "panels.js"
    frame = traitlets.Dict({"look": 0, "index": 0, "rows": []}).tag(sync=True)
    pictures = traitlets.List(traitlets.Bytes()).tag(sync=True)
    note = traitlets.Unicode().tag(sync=True)

    def show(self, frame: dict, pictures: list[bytes], note: str) -> None:
        """All in one message."""
        with self.hold_sync():
            self.pictures, self.note, self.frame = pictures, note, frame

    def send_ahead(self, frame: dict, pictures: list[bytes]) -> None:
        """A slice that may be wanted next."""
        self.send({"ahead": frame}, pictures)


class Plot(Listener):
    """A PNG; events: "point" {"x", "y"} in shares of its width and height, without them when it leaves."""

    _esm = HERE / "plot.js"
    picture = traitlets.Bytes().tag(sync=True)

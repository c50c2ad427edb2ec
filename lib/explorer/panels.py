"""A row of pictures in the browser that answers to wheel, keys and pointer."""

from collections.abc import Callable
from pathlib import Path

import anywidget
import traitlets

HERE = Path(__file__).parent


class Panels(anywidget.AnyWidget):
    """Pictures side by side with a line above and one below, shown together as soon as all are decoded.

    frame     {"look", "index", "titles"} of the pictures; slices of one look differ by their index alone
    pictures  JPEG bytes, one for each title
    note      the line above; readout, the line below
    `action` is called as action("turn", {"by": slices}), action("plane", {"plane": name}) or
    action("point", {"x": pixels, "y": pixels}) in the pictures' own pixels, without x and y when it leaves;
    what it returns, if anything, is called once the browser has its answer. The browser keeps one event on
    its way and joins what happens meanwhile, so that the pictures never lag behind the hand.
    """

    _esm = HERE / "panels.js"
    _css = HERE / "panels.css"
    frame = traitlets.Dict({"look": 0, "index": 0, "titles": []}).tag(sync=True)
    pictures = traitlets.List(traitlets.Bytes()).tag(sync=True)
    note = traitlets.Unicode().tag(sync=True)
    readout = traitlets.Unicode().tag(sync=True)

    def __init__(self, action: Callable[[str, dict], Callable | None]):
        super().__init__()
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

    def show(self, look: int, index: int, pictures: dict[str, bytes], note: str) -> None:
        """Pictures by title, in one message."""
        with self.hold_sync():
            self.pictures, self.note = list(pictures.values()), note
            self.frame = {"look": look, "index": index, "titles": list(pictures)}

    def send_ahead(self, look: int, index: int, pictures: dict[str, bytes]) -> None:
        """Pictures of a slice that may be wanted next."""
        frame = {"look": look, "index": index, "titles": list(pictures)}
        self.send({"ahead": frame}, list(pictures.values()))

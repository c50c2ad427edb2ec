"""A row of pictures in the browser that answers to wheel, keys and pointer."""

from pathlib import Path

import anywidget
import traitlets

HERE = Path(__file__).parent


class Panels(anywidget.AnyWidget):
    """Pictures side by side with a line above and one below, shown together as soon as all are decoded.

    shown     {"look", "index", "titles"} of the pictures; slices of one look differ by their index alone
    pictures  JPEG or PNG bytes, one for each title
    note      the line above; said, the line below
    The callback given to `on_event(f)` is called as f("turn", {"by": slices}), f("plane", {"plane": name}) or
    f("point", {"x": pixels, "y": pixels}) in the pictures' own pixels, without x and y when it leaves; what
    it returns, if anything, is called once the browser has its answer. The browser keeps one event on its
    way and joins what happens meanwhile, so that the pictures never lag behind the hand.
    """

    _esm = HERE / "panels.js"
    _css = HERE / "panels.css"
    shown = traitlets.Dict({"look": 0, "index": 0, "titles": []}).tag(sync=True)
    pictures = traitlets.List(traitlets.Bytes()).tag(sync=True)
    note = traitlets.Unicode().tag(sync=True)
    said = traitlets.Unicode().tag(sync=True)

    def __init__(self, **given):
        super().__init__(**given)
        self.action = None
        self.on_msg(self.answer)

    def on_event(self, action):
        self.action = action

    def answer(self, _, message, buffers):
        later = None
        try:
            later = self.action(message["what"], message)
        finally:
            self.send({"answered": message.get("number")})
        if later:
            later()

    def show(self, look, index, pictures, note):
        """Pictures by title, in one message."""
        with self.hold_sync():
            self.pictures, self.note = list(pictures.values()), note
            self.shown = {"look": look, "index": index, "titles": list(pictures)}

    def send_ahead(self, look, index, pictures):
        """Pictures of a slice that may be wanted next."""
        self.send(
            {"ahead": {"look": look, "index": index, "titles": list(pictures)}}, list(pictures.values())
        )

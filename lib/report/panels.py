"""A row of pictures in the browser that answers to wheel, keys and pointer."""
from pathlib import Path

import anywidget
import traitlets

HERE = Path(__file__).parent


class Panels(anywidget.AnyWidget):
    """Pictures side by side, shown together as soon as all are decoded.

    pictures  JPEG or PNG bytes; titles, one for each; said, a line below them
    The callbacks of `on_event(f)` are called as f("wheel", {"by": slices}), f("key", {"key": name}) or
    f("point", {"x": pixels, "y": pixels}) in the pictures' own pixels, without x and y when the pointer leaves. The browser
    keeps one event on its way and joins what happens meanwhile, so that the pictures never lag behind the hand.
    """

    _esm = HERE / "panels.js"
    _css = HERE / "panels.css"
    pictures = traitlets.List(traitlets.Bytes()).tag(sync=True)
    titles = traitlets.List(traitlets.Unicode()).tag(sync=True)
    said = traitlets.Unicode().tag(sync=True)

    def __init__(self, **given):
        super().__init__(**given)
        self.actions = []
        self.on_msg(self.answer)

    def on_event(self, action):
        self.actions.append(action)

    def answer(self, _, message, buffers):
        try:
            for action in self.actions:
                action(message["what"], message)
        finally:
            self.send({"answered": message.get("number")})

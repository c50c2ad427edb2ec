"""Pictures as small as they can be without anyone seeing it: PNG in files and notebooks, WebP in pages."""
import base64
import io
import re

from PIL import Image

MANY = 20_000  # colours: a figure of lines has fewer, one of CT or dose more
QUALITY = 90  # of a WebP with many colours


def smaller(picture):
    """A figure of lines needs no more than a palette, which makes its PNG a third as large."""
    picture = picture.convert("RGB")
    return picture.quantize(256, dither=Image.Dither.NONE) if picture.getcolors(MANY) else picture


def smaller_png(text):
    """A PNG in base64, as notebooks hold it."""
    buffer = io.BytesIO()
    smaller(Image.open(io.BytesIO(base64.b64decode(text)))).save(buffer, "PNG", optimize=True)
    made = base64.b64encode(buffer.getvalue()).decode()
    return made if len(made) < len(text) else text


def webp_uri(picture, quality=None):
    """A picture as WebP in a data URI; without a quality, one of few colours loses nothing."""
    lossless = quality is None and bool(picture.convert("RGB").getcolors(MANY))
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "WEBP", lossless=lossless, quality=quality or QUALITY, method=6)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def pngs_to_webp(html):
    """A page whose PNG data URIs are WebP."""
    return re.sub(r"data:image/png;base64,([A-Za-z0-9+/=\s]+)", lambda found: webp_uri(Image.open(io.BytesIO(base64.b64decode(found[1])))), html)

"""Pictures as small as can be without visible loss: PNG in files, PNG or JPEG in notebooks, WebP in pages."""

import base64
import io
import re

from PIL import Image

MANY = 20_000  # colours: a figure of lines has fewer, one of CT or dose more
QUALITY = 90  # of a WebP or a JPEG with many colours


def smaller(picture):
    """A figure of lines needs no more than a palette, which makes its PNG a third as large."""
    picture = picture.convert("RGB")
    return picture.quantize(256, dither=Image.Dither.NONE) if picture.getcolors(MANY) else picture


def smaller_output(data):
    """An output of a notebook (its data by type) with its PNG as small as it can be: with a palette, or a
    JPEG if it has many colours."""
    if "image/png" not in data:
        return data
    picture, buffer = smaller(Image.open(io.BytesIO(base64.b64decode(data["image/png"])))), io.BytesIO()
    kind, options = (
        ("PNG", {"optimize": True})
        if picture.mode == "P"
        else ("JPEG", {"quality": QUALITY, "subsampling": 0, "optimize": True})
    )
    picture.save(buffer, kind, **options)
    made = base64.b64encode(buffer.getvalue()).decode()
    rest = {name: value for name, value in data.items() if name != "image/png"}
    return rest | {f"image/{kind.lower()}": made} if len(made) < len(data["image/png"]) else data


def webp_uri(picture, quality=None):
    """A picture as WebP in a data URI; without a quality, one of few colours loses nothing."""
    lossless = quality is None and bool(picture.convert("RGB").getcolors(MANY))
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "WEBP", lossless=lossless, quality=quality or QUALITY, method=6)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def pictures_to_webp(html):
    """A page whose PNG and JPEG data URIs are WebP."""
    return re.sub(
        r"data:image/(?:png|jpeg);base64,([A-Za-z0-9+/=\s]+)",
        lambda found: webp_uri(Image.open(io.BytesIO(base64.b64decode(found[1])))),
        html,
    )

"""Pictures as small as can be without visible loss: PNG in files, PNG or JPEG in notebooks, WebP in pages."""

import base64
import io
import re

from PIL import Image

MANY = 20_000  # colours: a figure of lines has fewer, one of CT or dose more
QUALITY = 90  # of a WebP or a JPEG with many colours


def smaller(picture: Image.Image) -> Image.Image:
    """A figure of lines needs no more than a palette, which makes its PNG a third as large."""
    picture = picture.convert("RGB")
    return picture.quantize(256, dither=Image.Dither.NONE) if picture.getcolors(MANY) else picture


def decode(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def to_file(picture: Image.Image, kind: str, **options) -> bytes:
    """The picture as a file of this kind."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def encode(picture: Image.Image, kind: str, **options) -> str:
    """The picture as a file of this kind, in base64."""
    return base64.b64encode(to_file(picture, kind, **options)).decode()


def smaller_output(data: dict) -> dict:
    """A notebook's output (data by type) with its PNG as small as can be: by a palette, or else as JPEG."""
    if "image/png" not in data:
        return data
    picture = smaller(decode(data["image/png"]))
    if picture.mode == "P":
        kind, text = "image/png", encode(picture, "PNG", optimize=True)
    else:
        kind, text = "image/jpeg", encode(picture, "JPEG", quality=QUALITY, subsampling=0, optimize=True)
    rest = {name: value for name, value in data.items() if name != "image/png"}
    return rest | {kind: text} if len(text) < len(data["image/png"]) else data


def webp_uri(picture: Image.Image) -> str:
    """A picture as WebP in a data URI; one of few colours loses nothing."""
    picture = picture.convert("RGB")
    lossless = bool(picture.getcolors(MANY))
    text = encode(picture, "WEBP", lossless=lossless, quality=QUALITY, method=6)
    return f"data:image/webp;base64,{text}"


def pictures_to_webp(html: str) -> str:
    """A page whose PNG and JPEG data URIs are WebP."""
    uris = r"data:image/(?:png|jpeg);base64,([A-Za-z0-9+/=\s]+)"
    return re.sub(uris, lambda match: webp_uri(decode(match[1])), html)

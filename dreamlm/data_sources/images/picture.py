"""One picture file as square pixels, or the reason why it gives none; no file costs more than bounded time and memory.

1. Read the header alone: format, declared size, number of frames. What asks for too much ends here, undecoded.
2. Decode; a JPEG at the smallest scale that is large enough.
3. Make it eight bits of red, green and blue, turned as its camera was held, scaled to fit into the square, on white.
"""

import io
import threading
import warnings
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import IO, final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from dreamlm.core.errors import DataError

PICTURE_VERSION = 1
"""Part of every fingerprint: raise it when any function here gives other pixels."""
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Others are not opened: some of them run programs, or decode what no header declared."""
MOST_PIXELS = 1 << 26
"""Declared; of more nothing is decoded. A decoded picture takes four bytes a pixel, twice that where it has alpha."""
LARGE_PIXELS = 1 << 24
"""Of pictures with more, one at a time is in memory, however many threads read."""
MISSING, NO_FILE, TOO_MANY_PIXELS = "missing", "no file", f"more than {MOST_PIXELS:,} pixels"
"""Why a picture may be unusable."""
MOST_BYTES = 256 << 20
"""Of a file."""
REDUCING_GAP = 3.0
"""A picture is first reduced to this many times the wanted size, by averaging; the careful scaling does the rest."""
WHITE = (255, 255, 255)

STILL = f"a still picture will do, in one of the formats {', '.join(FORMATS)}"
SMALLER, ANEW = "a smaller one will do", "get the file anew, or save the picture once more"
"""What helps."""

_WITH_ALPHA = ("LA", "PA", "RGBA")
_WITHOUT_ALPHA = ("1", "CMYK", "L", "P", "RGB", "YCbCr")
_SIXTEEN_BITS = ("I", "I;16", "I;16B", "I;16L", "I;16N")


class UnusablePicture(DataError):
    """A picture that gives no pixels."""

    def __init__(self, reason: str, detail: str = "", where: str = "", hint: str = STILL) -> None:
        """`reason`: one of a few, such as `truncated`; `detail`: what is particular to this file."""
        self.reason, self.detail = reason, detail
        what = f"the picture cannot be used: {reason}" + (f" ({detail})" if detail else "")
        super().__init__(what, where=where, hint=hint)


def open_picture(picture: Path | bytes, size: int) -> npt.NDArray[np.uint8]:
    """(3, size, size) the red, green and blue of a picture, given its file or the bytes of one.

    The whole picture is there, because a caption speaks of all of it: where it is no square, there is white beside it.
    What is transparent is white too. Of grey with sixteen bits the upper eight stay; colour profiles are not looked at.

    Raises: UnusablePicture when it is missing, no picture, broken, truncated, animated or too large.
    """
    where = str(picture) if isinstance(picture, Path) else ""
    try:
        with _content(picture) as file, _UNWARNED, Image.open(file, formats=FORMATS) as image:
            _check_header(image)
            image.draft(None, (int(size * REDUCING_GAP), int(size * REDUCING_GAP)))
            with _room_for(image):
                return _square(_colours(_decoded(image)), size)
    except UnusablePicture as error:
        raise UnusablePicture(error.reason, error.detail, where, error.hint) from error
    except UnidentifiedImageError as error:
        raise UnusablePicture("no picture of a known format", where=where) from error
    except Image.DecompressionBombError as error:
        raise UnusablePicture(TOO_MANY_PIXELS, where=where, hint=SMALLER) from error
    except Exception as error:  # Pillow raises nearly every type on broken files
        kind = "truncated" if "truncated" in str(error).lower() else "broken"
        detail = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise UnusablePicture(kind, detail, where, ANEW) from error


def _content(picture: Path | bytes) -> IO[bytes]:
    """The bytes, not read yet.  Raises: UnusablePicture when there are none, or too many."""
    if isinstance(picture, bytes):
        _check_length(len(picture))
        return io.BytesIO(picture)
    try:
        if not picture.exists():
            raise UnusablePicture(MISSING, hint="")
        if not picture.is_file():  # a pipe would be waited for
            raise UnusablePicture(NO_FILE, hint="")
        _check_length(picture.stat().st_size)
        return picture.open("rb")
    except OSError as error:
        raise UnusablePicture("cannot be read", error.strerror or "", hint="") from error


def _check_length(length: int) -> None:
    if length == 0:
        raise UnusablePicture("empty", hint=ANEW)
    if length > MOST_BYTES:
        raise UnusablePicture(f"over {MOST_BYTES >> 20} MiB", hint=SMALLER)


def _check_header(image: Image.Image) -> None:
    """Raises: UnusablePicture for what need not be decoded to be refused."""
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise UnusablePicture(TOO_MANY_PIXELS, f"{width:,} x {height:,}", hint=SMALLER)
    # Cameras add a preview or a second view to one picture, which is no animation.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise UnusablePicture("more than one frame")


def _room_for(image: Image.Image) -> AbstractContextManager[object]:
    """Held while the picture is in memory."""
    return _ONE_LARGE if image.width * image.height > LARGE_PIXELS else nullcontext()


def _decoded(image: Image.Image) -> Image.Image:
    """The picture in memory, the right way up."""
    image.load()
    with suppress(Exception):  # what says how the camera was held may be damaged where the picture is not
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _colours(image: Image.Image) -> Image.Image:
    """The picture as RGB, or as RGBA where some of it may be transparent.  Raises: UnusablePicture for other pixels."""
    if image.mode in _SIXTEEN_BITS:
        upper = np.asarray(image).clip(0, 0xFFFF) >> 8
        return Image.fromarray(upper.astype(np.uint8)).convert("RGB")
    if image.mode in _WITH_ALPHA or (image.mode in _WITHOUT_ALPHA and "transparency" in image.info):
        return image.convert("RGBA")
    if image.mode in _WITHOUT_ALPHA:
        return image.convert("RGB")
    raise UnusablePicture("pixels of an unusual kind", image.mode)


def _square(image: Image.Image, size: int) -> npt.NDArray[np.uint8]:
    """(3, size, size) the picture in the middle of a white square that it fills in one direction."""
    scale = size / max(image.size)
    fitting = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    scaled = image.resize(fitting, Image.Resampling.LANCZOS, reducing_gap=REDUCING_GAP)
    square = Image.new("RGB", (size, size), WHITE)
    corner = ((size - scaled.width) // 2, (size - scaled.height) // 2)
    square.paste(scaled, corner, scaled if scaled.mode == "RGBA" else None)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


@final
class _Unwarned:
    """While any thread is inside, Pillow's warnings of damaged side data are ignored: `warnings` knows no threads."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._filters = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module="PIL")
            self._inside += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._filters.__exit__(None, None, None)


_UNWARNED = _Unwarned()
_ONE_LARGE = threading.Lock()

"""Characters as a font draws them, with the names that Unicode gives them: captioned pictures on any machine, offline.

The font is DejaVu Sans, which ships with matplotlib, and the names are those of Python's `unicodedata`.
"""

import hashlib
import importlib.util
import unicodedata
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal, final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from dreamlm.core.errors import DataError
from dreamlm.core.types import Document, ImageForm
from dreamlm.data_sources.sources.admission import limited
from dreamlm.data_sources.sources.images import picture_versions
from dreamlm.data_sources.sources.source import Source, SourceContext, SourceOptions, SourceReport, fingerprint_of

DRAWING_VERSION = 1
FONT = "mpl-data/fonts/ttf/DejaVuSans.ttf"
DRAWN = "LNPS"
"""First letters of the categories that have a shape of their own: letters, numbers, punctuation and signs."""
FILLED = 0.7
"""Height of the font, as a share of the picture's."""


@final
class UnicodeGlyphs(Source):
    """The characters of the font, in the order of their numbers."""

    class Config(SourceOptions):
        """Characters with their Unicode names; needs no network."""

        type: Literal["unicode_glyphs"]
        """Pictures of characters; the model needs `model.vision`."""

        @property
        def has_pictures(self) -> bool:
            """Always."""
            return True

        def default_name(self) -> str:
            """Always `unicode_glyphs`."""
            return "unicode_glyphs"

        def build(self, context: SourceContext) -> "UnicodeGlyphs":
            """The live source, on the font of the installed matplotlib."""
            return UnicodeGlyphs(self, context)

    def __init__(self, config: Config, context: SourceContext) -> None:
        self.name = config.source_name
        self.bounded = True
        self._config, self._form = config, context.image_form

    def fingerprint(self) -> str:
        """See `Source`: the font's bytes, and the version of Unicode."""
        return fingerprint_of(
            {
                "options": self._config.model_dump(mode="json", exclude={"name"}),
                "versions": [DRAWING_VERSION, unicodedata.unidata_version, *picture_versions()],
                "contents": hashlib.sha256(self._font.read_bytes()).hexdigest(),
            }
        )

    def version(self) -> str:
        """See `Source`."""
        return ""

    def documents(self, report: SourceReport) -> Iterator[Document]:
        """See `Source`. With the context's `image_form` each document has its picture."""
        return limited(self._all(report), self._config, report, self.name)

    def _all(self, report: SourceReport) -> Iterator[Document]:
        from matplotlib.ft2font import FT2Font  # half a second of import time

        font = ImageFont.truetype(self._font, round(FILLED * self._form.size)) if self._form else None
        for number in sorted(FT2Font(str(self._font)).get_charmap()):
            report.inputs += 1
            character = chr(number)
            name = unicodedata.name(character, "")
            if not name or unicodedata.category(character)[0] not in DRAWN:
                report.drop("character: no name, or no shape of its own", f"U+{number:04X}")
                continue
            picture = drawn(character, font, self._form) if font is not None and self._form else None
            yield Document(f"{name.lower()}.", f"U+{number:04X}", picture)

    @cached_property
    def _font(self) -> Path:
        spec = importlib.util.find_spec("matplotlib")
        font = Path(spec.origin).parent / FONT if spec and spec.origin else Path(FONT)
        if not font.is_file():
            raise DataError(f"the font is not there: {font}", where=self.name, hint="pip install matplotlib")
        return font


def drawn(character: str, font: ImageFont.FreeTypeFont, form: ImageForm) -> npt.NDArray[np.uint8]:
    """(3, H, W) the character in black, its box in the middle of a white square."""
    square = Image.new("RGB", (form.size, form.size), (255, 255, 255))
    left, top, right, bottom = font.getbbox(character)
    corner = ((form.size - left - right) / 2, (form.size - top - bottom) / 2)
    ImageDraw.Draw(square).text(corner, character, font=font, fill=(0, 0, 0))
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))

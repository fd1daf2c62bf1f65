"""What text a picture can hold: how wide it is, and which characters there are."""

from bisect import bisect_right
from typing import Any, final

MISSING, CUT = "□", "…"


@final
class Lettering:
    """The font of a picture."""

    family = "DejaVu Sans"
    """It comes with matplotlib."""

    def __init__(self) -> None:
        from matplotlib.font_manager import findfont, get_font

        self._font: Any = get_font(findfont(self.family))

    def width(self, text: str, size: float) -> float:
        """Inches of a text of that size in points, in the font's ordinary weight."""
        self._font.set_size(size, 72)
        self._font.set_text(text)
        width: float = self._font.get_width_height()[0] / 64 / 72
        return width

    def fitted(self, text: str, size: float, room: float) -> str:
        """The text with a box for each character that the font lacks, cut to so many inches."""
        known = "".join(one if self._font.get_char_index(ord(one)) else MISSING for one in text)
        if self.width(known, size) <= room:
            return known
        end = bisect_right(range(len(known)), room, key=lambda end: self.width(known[:end] + CUT, size))
        return known[: max(0, end - 1)] + CUT

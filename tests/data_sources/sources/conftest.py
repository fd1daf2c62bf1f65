"""Small inputs that the tests of this folder share."""

import io
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from dreamlm.data_sources.sources.source import SourceContext

WORDS = """
the of and to in that was he his it with is for as had you not be her on at by which have or from this him but all she
they were my are me one their so an said them we who would been will no when there if more out up into do any your what
has man could other than our some very time upon about may its only now like little then can should made did us such
great before must two these see know over much down after first good men own never most old shall day
""".split()  # noqa: SIM905 - a list of a hundred words would fill pages


def english(sentences: int, seed: int = 0) -> str:
    """Sentences of common English words; the same for the same seed."""
    chance = random.Random(seed)
    made = [" ".join(chance.choices(WORDS, k=chance.randint(8, 16))).capitalize() + "." for _ in range(sentences)]
    return " ".join(made)


@pytest.fixture
def context(tmp_path: Path) -> SourceContext:
    """Relative paths start in `tmp_path/data`; the cache lies beside it."""
    (tmp_path / "data").mkdir()
    return SourceContext(base_folder=tmp_path / "data", cache_folder=tmp_path / "cache", min_text_length=20)


@pytest.fixture
def data(context: SourceContext) -> Path:
    """The folder in which a test puts its inputs."""
    return context.base_folder


@pytest.fixture
def prose() -> Callable[..., str]:
    """Makes English-looking sentences."""
    return english


@pytest.fixture
def make_pdf() -> Callable[..., bytes]:
    """Makes the bytes of a PDF with one page per text; long lines are wrapped."""

    def make(*pages: str, password: str | None = None, picture: bool = False) -> bytes:
        from reportlab.lib.utils import simpleSplit
        from reportlab.pdfgen.canvas import Canvas

        written = io.BytesIO()
        canvas = Canvas(written, invariant=True)
        for text in pages:
            if picture:
                from PIL import Image
                from reportlab.lib.utils import ImageReader

                canvas.drawImage(ImageReader(Image.new("RGB", (8, 8), "red")), 50, 500, 100, 100)
            for row, line in enumerate(simpleSplit(text, "Helvetica", 9, 500)):
                canvas.setFont("Helvetica", 9)
                canvas.drawString(40, 800 - 11 * row, line)
            canvas.showPage()
        canvas.save()
        if password is None:
            return written.getvalue()
        from pypdf import PdfReader, PdfWriter

        writer = PdfWriter(clone_from=PdfReader(written))
        writer.encrypt(user_password=password, owner_password="owner", algorithm="AES-256")
        locked = io.BytesIO()
        writer.write(locked)
        return locked.getvalue()

    return make

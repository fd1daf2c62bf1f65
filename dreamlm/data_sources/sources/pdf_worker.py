"""A process of its own that reads PDFs, so that a file which hangs, crashes or eats memory harms nothing else.

Run as a script by `pdf_process.py`; it needs nothing but pypdf. It answers every line on its standard input (a JSON
object with `path` and the limits) with one line on its standard output (a JSON object, see `read_pdf`), and ends when
its input does. Errors of any type are caught per page and per file: of 3,627 real files, some raised TypeError,
ValueError, AttributeError, AssertionError or NotImplementedError, on opening or on some of their pages.
"""

import json
import logging
import math
import os
import re
import signal
import sys
from typing import Any

MOST_CHARACTERS = 50_000_000
"""A file with more text is given up: it is a decompression bomb, or no document."""

NARROW_WORD_GAP = 180.0
"""Thousandths of the font size. A gap of this width divides words where the font's own idea of a space glued them: in
justified pages of TeX and its kin, lines set tight have gaps of 200 to 235 and pypdf expects 237."""
GLUED_SHARE = 0.06
"""Share of letters in words of over 20 letters from which a page is read again with narrow gaps."""
_WORDS = re.compile(r"[^\W\d_]+")

Answer = dict[str, Any]


def main() -> None:
    """Answer requests until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # nothing that a library prints may pass for an answer
    logging.disable(logging.CRITICAL)
    for line in sys.stdin:
        request = json.loads(line)
        if "memory_limit_bytes" in request:
            limit_memory(request["memory_limit_bytes"])
            import pypdf

            answer: Answer = {"pypdf": pypdf.__version__}
        else:
            limit_processor_time(request["time_limit_seconds"])
            answer = read_pdf(request["path"])
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        if answer.get("failure") == "over the memory limit":
            return  # what survived a failed allocation is not to be trusted with the next file


def read_pdf(path: str) -> Answer:
    """`pages`: the raw text of each page, null where it could not be read; `page_errors`: their errors; `images`:
    whether any page shows one. A file that cannot be read has a `failure` and a `detail` instead.
    """
    import pypdf
    from pypdf.errors import FileNotDecryptedError, WrongPasswordError

    try:
        reader = pypdf.PdfReader(path)
        if reader.is_encrypted and not reader.decrypt(""):
            return {"failure": "encrypted, needs a password", "detail": ""}
        return _read_pages(reader)
    except (FileNotDecryptedError, WrongPasswordError) as error:
        return {"failure": "encrypted, needs a password", "detail": _line(error)}
    except MemoryError:
        return {"failure": "over the memory limit", "detail": ""}
    except Exception as error:  # noqa: BLE001 - pypdf raises nearly every type on broken files
        return {"failure": "broken", "detail": _line(error)}


def _read_pages(reader: Any) -> Answer:
    pages: list[str | None] = []
    errors: list[str] = []
    images = False
    characters = 0
    for index in range(len(reader.pages)):
        try:
            page = reader.pages[index]
            text = _text_of(page)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - a bad page must not cost the good ones
            pages.append(None)
            errors.append(f"page {index + 1}: {_line(error)}")
            continue
        images = images or (not text.strip() and _shows_image(page))
        pages.append(text)
        characters += len(text)
        if characters > MOST_CHARACTERS:
            return {"failure": f"more than {MOST_CHARACTERS:,} characters", "detail": ""}
    return {"pages": pages, "page_errors": errors, "images": images}


def _text_of(page: Any) -> str:
    """The text of a page; a page whose words are glued is read again with a narrower idea of a space.

    Departs: reaches into pypdf, which has no option for it; with a release that is built otherwise, or where the second
    reading is no better, the first one stands, and the page is later dropped for its glued words.
    """
    text: str = page.extract_text()
    if not _is_glued(text):
        return text
    try:
        from pypdf._text_extraction import _text_extractor
    except ImportError:
        return text
    reader = getattr(_text_extractor, "TextExtraction", None)
    plain = getattr(reader, "process_tj_offset", None)
    if reader is None or plain is None:
        return text
    reader.process_tj_offset = lambda self, offset, gap: plain(self, offset, min(gap, NARROW_WORD_GAP))
    try:
        again: str = page.extract_text()
    finally:
        reader.process_tj_offset = plain
    return text if _is_glued(again) else again


def _is_glued(text: str) -> bool:
    words = _WORDS.findall(text)
    return sum(len(word) for word in words if len(word) > 20) > GLUED_SHARE * sum(map(len, words))


def _shows_image(page: Any) -> bool:
    try:
        objects = page["/Resources"].get_object().get("/XObject", {}).get_object()
        return any(objects[name].get_object().get("/Subtype") == "/Image" for name in objects)
    except Exception:  # noqa: BLE001 - only the wording of the reason depends on it
        return False


def limit_memory(limit_bytes: int) -> None:
    """Cap the address space of this process, where the system can."""
    if sys.platform != "win32":
        import resource

        _, allowed = resource.getrlimit(resource.RLIMIT_AS)
        limit = limit_bytes if allowed == resource.RLIM_INFINITY else min(limit_bytes, allowed)
        resource.setrlimit(resource.RLIMIT_AS, (limit, allowed))


def limit_processor_time(seconds: float) -> None:
    """Let the system end this process after so much more processor time; a busy machine changes nothing about it."""
    if sys.platform != "win32":
        import resource

        usage = resource.getrusage(resource.RUSAGE_SELF)
        limit = math.ceil(usage.ru_utime + usage.ru_stime + seconds)
        _, allowed = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(
            resource.RLIMIT_CPU, (limit if allowed == resource.RLIM_INFINITY else min(limit, allowed), allowed)
        )


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


if __name__ == "__main__":
    main()

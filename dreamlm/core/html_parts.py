"""The parts of an HTML page that needs nothing else: a frame, tables, and pictures inside it.

A page is well-formed XML too, so that a test can read it without a browser.
"""

from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid #ddd; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
figure { margin: 1.5rem 0; } img { max-width: 100%; height: auto; }
figcaption, .unit, .note { color: #666; font-size: .9rem; }
"""


def page(title: str, heading: str, body: Iterable[str]) -> str:
    """A whole page.  body: lines of HTML."""
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8" />',
        '<meta name="viewport" content="width=device-width, initial-scale=1" />',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        "</head>",
        "<body>",
        f"<h1>{escape(heading)}</h1>",
        *body,
        "</body>",
        "</html>",
    ]
    return "\n".join(lines) + "\n"


def table(header: Sequence[str], kinds: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    """Lines of a table.  kinds: for each column `number`, `unit`, or nothing."""
    opened = [f'<td class="{kind}">' if kind else "<td>" for kind in kinds]
    yield "<table>"
    yield "<thead><tr>" + "".join(f"<th>{escape(name)}</th>" for name in header) + "</tr></thead>"
    yield "<tbody>"
    for row in rows:
        cells = zip(opened, row, strict=True)
        yield "<tr>" + "".join(f"{begin}{escape(text)}</td>" for begin, text in cells) + "</tr>"
    yield "</tbody>"
    yield "</table>"


def figure(png: bytes, caption: str) -> Iterable[str]:
    """Lines of a picture with what is seen on it."""
    said = escape(caption)
    yield "<figure>"
    yield f'<img alt="{said}" src="data:image/png;base64,{b64encode(png).decode("ascii")}" />'
    yield f"<figcaption>{said}</figcaption>"
    yield "</figure>"

"""Small pictures, folders of them with captions, and corpora of those; runnable, so that a test can kill it."""

import io
import json
import struct
import sys
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from prepare_by_hand import config_of, prepared

from dreamlm.core.types import ImageForm
from dreamlm.data_sources.corpus import Corpus

Colour = tuple[int, int, int]
FORM = ImageForm(size=8, places=3)
PICTURES = {"type": "images", "paths": "pictures"}


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of the picture's file."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def plain(colour: Colour | str, width: int = 6, height: int = 6) -> bytes:
    """A PNG of one colour."""
    return encoded(Image.new("RGB", (width, height), colour))


def declared(width: int, height: int) -> bytes:
    """A PNG of under a hundred bytes that declares any size."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def moving() -> bytes:
    """A GIF of two frames."""
    return encoded(Image.new("RGB", (4, 4), "red"), "GIF", save_all=True, append_images=[Image.new("RGB", (4, 4))])


def write_folder(folder: Path, captions: Mapping[str, str], pictures: Mapping[str, bytes] | None = None) -> None:
    """A folder with metadata.jsonl; a picture that is not given is of a colour of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"file_name": name, "text": text}) for name, text in captions.items()]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    own = {name: plain((number % 256, number // 256, 128)) for number, name in enumerate(captions)}
    for name, content in {**own, **(pictures or {})}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def corpus_of(base: Path, folder: Path, *sources: dict[str, object], **arguments: Any) -> Corpus:
    """The corpus of `base/pictures`, or of the sources, in small shards."""
    known: dict[str, Any] = {"image_form": FORM, **arguments}
    options = known.pop("options", {})
    config = config_of(*(sources or (PICTURES,)), **{"shard_text_bytes": 1024, "validation_fraction": 0.1, **options})
    return prepared(config, folder, base, **known)


def main(arguments: Sequence[str]) -> None:
    """`BASE FOLDER WORKERS`: prepare `BASE/pictures` into FOLDER."""
    base, folder, workers = Path(arguments[0]), Path(arguments[1]), int(arguments[2])
    corpus_of(base, folder, workers=workers)


if __name__ == "__main__":
    main(sys.argv[1:])

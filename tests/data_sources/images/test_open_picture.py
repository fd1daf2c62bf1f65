"""A picture becomes the same square of pixels however its file is made, and what is no usable picture says why."""

import os
import resource
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from pictures_by_hand import declared, encoded, moving, plain
from PIL import Image

from dreamlm.data_sources.images import picture
from dreamlm.data_sources.images.picture import FORMATS, UnusablePicture, open_picture

RED, BLUE, WHITE = [255, 0, 0], [0, 0, 255], [255, 255, 255]

WEBP_BOMB = bytes.fromhex("524946461a000000574542505650384c0e0000002ffebfff0f071011fd0f4444ff03")
"""Declares 16,383 x 16,383 pixels."""


def at(pixels: np.ndarray, row: int, column: int) -> list[int]:
    return [int(value) for value in pixels[:, row, column]]


def halves(width: int = 40, height: int = 20) -> Image.Image:
    """Red on the left, blue on the right."""
    shown = Image.new("RGB", (width, height), "blue")
    shown.paste("red", (0, 0, width // 2, height))
    return shown


def reason(content: bytes | Path) -> str:
    with pytest.raises(UnusablePicture) as caught:
        open_picture(content, 8)
    return caught.value.reason


def test_a_picture_keeps_its_shape_on_a_white_square(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(halves()))
    pixels = open_picture(tmp_path / "a.png", 16)
    assert (pixels.shape, pixels.dtype, pixels.flags.c_contiguous) == ((3, 16, 16), np.uint8, True)
    assert [at(pixels, row, 2) for row in (0, 3, 4, 11, 12, 15)] == [WHITE, WHITE, RED, RED, WHITE, WHITE]
    assert (at(pixels, 8, 2), at(pixels, 8, 13)) == (RED, BLUE)
    tall = open_picture(encoded(halves().transpose(Image.Transpose.ROTATE_90)), 16)
    assert (at(tall, 2, 8), at(tall, 13, 8), at(tall, 8, 2)) == (BLUE, RED, WHITE)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (300, 2), (64, 64)])
def test_any_shape_fills_the_square_in_one_direction(size: tuple[int, int]) -> None:
    pixels = open_picture(encoded(Image.new("RGB", size, "red")), 8)
    filled = (pixels[1] == 0).any(axis=0).sum(), (pixels[1] == 0).any(axis=1).sum()
    assert max(filled) == 8
    assert min(filled) >= 1


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind != "GIF"])
def test_every_format_is_read(kind: str) -> None:
    pixels = open_picture(encoded(halves(), kind, **({"lossless": True} if kind == "WEBP" else {})), 16)
    assert np.abs(pixels[:, 8, 2].astype(int) - RED).max() < 3
    assert np.abs(pixels[:, 8, 13].astype(int) - BLUE).max() < 3


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (Image.new("1", (4, 4), 1), WHITE),
        (Image.new("L", (4, 4), 90), [90, 90, 90]),
        (Image.new("LA", (4, 4), (90, 0)), WHITE),
        (Image.new("RGBA", (4, 4), (0, 0, 0, 0)), WHITE),
        (Image.new("RGBA", (4, 4), (255, 0, 0, 128)), [255, 127, 127]),
        (Image.fromarray(np.full((4, 4), 0x8042, dtype=np.uint16)), [128, 128, 128]),
        (Image.new("RGB", (4, 4), "red").quantize(4), RED),
    ],
    ids=["1", "L", "LA", "transparent", "half transparent", "16 bits", "palette"],
)
def test_colours_become_plain_ones(shown: Image.Image, expected: list[int]) -> None:
    assert at(open_picture(encoded(shown), 4), 2, 2) == expected


def test_print_colours_become_plain_ones() -> None:
    assert at(open_picture(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"), 8), 4, 4) == RED


def test_a_colour_that_stands_for_nothing_is_white() -> None:
    palette = Image.new("RGB", (4, 4), "red").quantize(4)
    index = palette.getpixel((0, 0))
    assert at(open_picture(encoded(palette, transparency=index), 4), 2, 2) == WHITE
    assert at(open_picture(encoded(Image.new("RGB", (4, 4), "red"), transparency=(255, 0, 0)), 4), 2, 2) == WHITE


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize(
    ("orientation", "place_of_red"),
    [(1, (8, 2)), (2, (8, 13)), (3, (8, 13)), (4, (8, 2)), (5, (2, 8)), (6, (2, 8)), (7, (13, 8)), (8, (13, 8))],
)
def test_a_camera_that_was_turned_changes_nothing(kind: str, orientation: int, place_of_red: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = open_picture(encoded(halves(), kind, exif=exif), 16)
    red, blue = (at(pixels, *place) for place in (place_of_red, tuple(15 - one for one in place_of_red)))
    assert red[0] > 200 > 50 > red[2]
    assert blue[2] > 200 > 50 > blue[0]


def test_damaged_words_of_the_camera_cost_no_picture() -> None:
    content = encoded(halves(), "JPEG", exif=b"Exif\0\0nothing that anybody can read")
    assert at(open_picture(content, 16), 8, 2)[0] > 200


def test_a_small_scale_of_a_photograph_is_the_photograph() -> None:
    large = np.zeros((1600, 1600, 3), dtype=np.uint8)
    large[:, :800] = RED
    large[800:, :, 1] = 200
    pixels = open_picture(encoded(Image.fromarray(large), "JPEG", quality=95), 8).astype(int)
    expected = open_picture(encoded(Image.fromarray(large)), 8).astype(int)
    assert np.abs(pixels - expected).max() < 12


def test_two_views_of_a_camera_are_no_animation() -> None:
    both = encoded(halves(), "MPO", save_all=True, append_images=[Image.new("RGB", (40, 20), "green")])
    assert at(open_picture(both, 16), 8, 2)[0] > 200


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty"),
        (b"<html>not found</html>", "no picture of a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture of a known format"),
        (encoded(halves(), "JPEG")[:-200], "truncated"),
        (encoded(halves())[:-30], "truncated"),
        (encoded(halves(), "BMP").replace(b"\x18\0", b"\x11\0", 1), "broken"),
        (moving(), "more than one frame"),
        (encoded(halves(), save_all=True, append_images=[Image.new("RGB", (40, 20))]), "more than one frame"),
        (declared(9000, 9000), "more than 67,108,864 pixels"),
        (declared(50_000, 50_000), "more than 67,108,864 pixels"),
        (encoded(Image.new("F", (4, 4)), "TIFF"), "pixels of an unusual kind"),
    ],
    ids=["empty", "text", "program", "jpeg", "png", "broken", "gif", "apng", "large", "huge", "floats"],
)
def test_what_cannot_be_used_says_why(content: bytes, expected: str) -> None:
    assert reason(content) == expected


def test_what_is_no_file_says_why(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert reason(tmp_path / "absent.png") == "missing"
    assert reason(tmp_path / "pipe.png") == reason(tmp_path) == "no file"
    assert reason(Path("name\0.png")) == "missing"


def test_a_file_that_is_too_long_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "MOST_BYTES", 2 << 20)
    assert reason(plain("red") + bytes(2 << 20)) == "over 2 MiB"


def test_the_error_names_the_file_and_what_would_do(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(declared(9000, 9000))
    with pytest.raises(UnusablePicture) as caught:
        open_picture(tmp_path / "a.png", 8)
    assert str(caught.value) == (
        "the picture cannot be used: more than 67,108,864 pixels (9,000 x 9,000)\n"
        f"at: {tmp_path / 'a.png'}\n"
        "help: a smaller one will do"
    )


def test_a_bomb_costs_neither_time_nor_memory() -> None:
    bombs = [declared(50_000, 50_000), WEBP_BOMB]
    peak, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    assert {reason(bomb) for bomb in bombs} == {"more than 67,108,864 pixels"}
    assert time.process_time() - began < 1.0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 50_000


def test_threads_that_read_leave_the_warnings_as_they_were() -> None:
    """Pillow warns of this file, and warnings are errors here: it is read all the same, and others still are."""
    exif = Image.Exif()
    exif[0x0112] = 6
    cut_short = encoded(halves(), "JPEG", exif=exif.tobytes()[:-6])
    filters = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: open_picture(cut_short, 8).tobytes(), range(40)))
    assert len(set(found)) == 1
    assert warnings.filters == filters


def test_one_large_picture_at_a_time_is_in_memory_and_small_ones_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two large and two small ones at the door three get in, where they wait a while for the fourth."""
    room_for, decoded, square = picture._room_for, picture._decoded, picture._square
    door, news = threading.Barrier(4, timeout=10), threading.Condition()
    inside: list[int] = []
    crowds: list[list[int]] = []

    def at_the_door(image: Image.Image) -> AbstractContextManager[object]:
        door.wait()
        return room_for(image)

    def entering(image: Image.Image) -> Image.Image:
        with news:
            inside.append(image.width)
            crowds.append(sorted(inside))
            news.notify_all()
        return decoded(image)

    def leaving(image: Image.Image, size: int) -> np.ndarray:
        with news:
            news.wait_for(lambda: len(crowds) >= 3, 10)
            news.wait_for(lambda: len(crowds) == 4, 0.2)
        pixels = square(image, size)
        with news:
            inside.remove(image.width)
        return pixels

    for name, instead in (("_room_for", at_the_door), ("_decoded", entering), ("_square", leaving)):
        monkeypatch.setattr(picture, name, instead)
    monkeypatch.setattr(picture, "LARGE_PIXELS", 8 * 8)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda side: open_picture(plain("red", side, side), 8).tobytes(), (9, 9, 8, 8)))
    assert len(set(found)) == 1
    assert crowds[2] == [8, 8, 9]
    assert [crowd.count(9) for crowd in crowds[2:]] == [1, 1]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_damaged_file_is_read_or_named(kind: str) -> None:
    chance = np.random.default_rng(7)
    content, unusable = encoded(halves(), kind), 0
    for _ in range(60):
        damaged = bytearray(content)
        for place in chance.integers(0, len(damaged), 3):
            damaged[place] = chance.integers(256)
        try:
            assert open_picture(bytes(damaged), 8).shape == (3, 8, 8)
        except UnusablePicture:
            unusable += 1
    assert unusable > 0

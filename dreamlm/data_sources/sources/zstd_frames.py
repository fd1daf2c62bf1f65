"""Zstandard files, whose reader in `zstandard` takes one that was cut off for a whole one."""

import io
from typing import Any, BinaryIO

PIECE_BYTES = 1024
"""Read at once; four bytes may stand for 128 KiB, so that this much gives 32 MiB at most."""


class ZstdFrames(io.RawIOBase):
    """The content of all frames of a file, end to end.

    Reading raises OSError for damaged data, EOFError where the last frame does not end.
    """

    def __init__(self, packed: BinaryIO) -> None:
        import zstandard

        self._packed = packed
        self._damaged = zstandard.ZstdError
        self._decompressor = zstandard.ZstdDecompressor()
        self._frame = self._decompressor.decompressobj()
        self._begun = False
        self._left = b""
        """Read from the file, and part of the next frame."""
        self._unpacked = memoryview(b"")

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """See `io.RawIOBase`."""
        while not self._unpacked:
            piece = self._left or self._packed.read(PIECE_BYTES)
            if not piece:
                if self._begun:
                    raise EOFError("the compressed data end early")
                return 0
            self._unpacked = memoryview(self._unpack(piece))
        wanted = memoryview(buffer).cast("B")
        size = min(len(wanted), len(self._unpacked))
        wanted[:size], self._unpacked = self._unpacked[:size], self._unpacked[size:]
        return size

    def _unpack(self, piece: bytes) -> bytes:
        try:
            content = self._frame.decompress(piece)
        except self._damaged as error:
            raise OSError(f"damaged zstd data: {error}") from error
        self._begun = not self._frame.eof
        self._left = b"" if self._begun else self._frame.unused_data
        if not self._begun:
            self._frame = self._decompressor.decompressobj()
        return content

"""What is said on the side. It never ends a command: whoever read it may be gone, the disk behind it may be full."""

import os
from typing import TextIO

from dreamlm.core.errors import is_out_of_space


def aside(stream: TextIO, text: str) -> None:
    """A line on the stream, at once; lost where the stream does not take it."""
    try:
        stream.write(text + "\n")
        stream.flush()
    except OSError as error:
        if not is_out_of_space(error):  # a full disk may take the next line
            silence(stream)


def silence(stream: TextIO) -> None:
    """Send what the stream still holds, and all that is written to it from here on, nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)

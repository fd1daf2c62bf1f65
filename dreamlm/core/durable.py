"""Names that survive a power cut."""

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Return once the names in the folder are on the device."""
    if os.name == "nt":  # Windows opens no folder for flushing; its renames are journalled
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

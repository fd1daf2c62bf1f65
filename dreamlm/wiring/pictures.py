"""Picture files as a model takes them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dreamlm.core.errors import UserMistake
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.vision.vision import require_vision
from dreamlm.data_sources.images.picture import MISSING, NO_FILE, UnusablePicture, open_picture


def opened_pictures(model: DreamLM, files: Sequence[Path]) -> list[npt.NDArray[np.uint8]]:
    """(3, H, W) each of the files that `--image` names, prepared as those of a corpus are.

    Raises: UserMistake when the model takes no pictures, or naming a file that gives none.
    """
    size = require_vision(model.config.image_form, "--image").size if files else 0
    return [_opened(file, size) for file in files]


def _opened(file: Path, size: int) -> npt.NDArray[np.uint8]:
    try:
        return open_picture(file, size)
    except UnusablePicture as error:
        what, hint = error.what, error.hint
        if error.reason == MISSING:
            what = "there is no such file"
        elif error.reason == NO_FILE and file.is_dir():
            what, hint = "this is a folder, not a picture", "name each file in it by an --image of its own"
        raise UserMistake(what, where=f"--image {file}", hint=hint) from error

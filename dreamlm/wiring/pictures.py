"""Picture files as a model takes them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.vision.vision import require_vision
from dreamlm.data_sources.images.picture import open_picture


def opened_pictures(model: DreamLM, files: Sequence[Path]) -> list[npt.NDArray[np.uint8]]:
    """(3, H, W) each, prepared as those of a corpus are.

    Raises: UserMistake when the model takes no pictures; DataError naming a file that is none.
    """
    size = require_vision(model.config.image_form).size if files else 0
    return [open_picture(file, size) for file in files]

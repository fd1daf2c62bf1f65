"""`config.json` of a snapshot: the decoder's configuration and what it must know of its vocabulary."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreamlm.core.errors import CheckpointError

MODEL_TYPE = "dreamlm"


def model_config(model: Mapping[str, Any], vocab_size: int, end_of_document_id: int, padding_id: int) -> dict[str, Any]:
    """The content of config.json; `model` is `DreamLM.Config.model_dump(mode="json")`.

    A document begins with the end-of-document token, so it is the first and the last token of a text.
    """
    return {
        "model_type": MODEL_TYPE,
        "architectures": ["DreamLM"],
        "vocab_size": vocab_size,
        "bos_token_id": end_of_document_id,
        "eos_token_id": end_of_document_id,
        "pad_token_id": padding_id,
        "model": dict(model),
    }


def read_model_config(folder: Path) -> dict[str, Any]:
    """config.json of a snapshot.  Raises: CheckpointError when it is missing or not what `model_config` makes."""
    path = folder / "config.json"
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        complete = content["model_type"] == MODEL_TYPE and {"vocab_size", "eos_token_id", "model"} <= content.keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"config.json cannot be read: {error!r}", where=str(path)) from error
    if not complete:
        raise CheckpointError(
            "config.json is not the configuration of a dreamlm model",
            where=str(path),
            hint="name the folder of a snapshot, such as RUN/checkpoints/lm_current",
        )
    return content

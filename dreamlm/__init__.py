"""dreamlm: one toolkit for the whole life of a small language model.

The public API is lazy: importing the package imports neither torch nor pydantic. It does tell transformers, when that
is imported, of the model type `dreamlm`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dreamlm.core.nn.decoder import DreamLM
    from dreamlm.presets.schema import Preset
    from dreamlm.wiring import load

from dreamlm.core.hf.registration import watch

__version__ = "0.1.0"
__all__ = ["DreamLM", "Preset", "load"]

_HOMES = {"DreamLM": "dreamlm.core.nn.decoder", "Preset": "dreamlm.presets.schema", "load": "dreamlm.wiring"}

watch()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dreamlm' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

"""`import dreamlm` teaches transformers' Auto classes the model type `dreamlm`, without importing transformers.

1. what transformers has loaded already is told at once
2. what it loads later is told when it is loaded: a finder waits for the two modules that hold the Auto tables
"""

import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


def watch() -> None:
    """Register now where possible, and for the rest as soon as transformers loads it; again and again is harmless."""
    for name, register in _TABLES.items():
        if name in sys.modules:
            register()
    if not any(isinstance(finder, _Watcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watcher())


def _register_config() -> None:
    from transformers.models.auto.configuration_auto import AutoConfig

    from dreamlm.core.hf.configuration import DreamLMConfig

    AutoConfig.register(DreamLMConfig.model_type, DreamLMConfig, exist_ok=True)


def _register_model() -> None:
    from transformers.models.auto.modeling_auto import AutoModelForCausalLM

    from dreamlm.core.hf.configuration import DreamLMConfig
    from dreamlm.core.hf.modeling import DreamLMForCausalLM

    AutoModelForCausalLM.register(DreamLMConfig, DreamLMForCausalLM, exist_ok=True)


_TABLES: dict[str, Callable[[], None]] = {
    "transformers.models.auto.configuration_auto": _register_config,
    "transformers.models.auto.modeling_auto": _register_model,
}


class _Watcher(MetaPathFinder):
    """Finds the modules of `_TABLES` as the usual finder does, and registers once they have been executed."""

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname not in _TABLES:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            _TABLES[fullname]()

        # The loader stays the one that everybody expects; it belongs to this one module.
        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec

"""When a corpus can be used again: its key names everything its content depends on, component by component."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from dreamlm.core.errors import DataError
from dreamlm.core.tokenizer import BytePair, Pretrained
from dreamlm.data_sources.corpus import Corpus

CODE_VERSION = 3
"""Raised whenever the same input would give another corpus."""
UNKNOWN = "unknown"
"""Stands for a source whose content could not be looked at."""
FAILED = "failed"
"""Stands for a source that was there but gave nothing; it is tried again the next time."""

WHOLE = "corpus"
"""The component that differs when there is no corpus to compare with."""
VERSION = "version of "
"""Begins the component that says which version of a source was read, such as a commit."""
PICTURES = "pictures"
"""The component that says in which form pictures are kept; only where a source has some."""
LIMIT = "limit of "
"""Begins the component that says how many bytes of text were kept of a source without an end."""


@dataclass(frozen=True)
class Difference:
    """A component of the key that keeps an existing corpus from being used."""

    component: str
    existing: str
    wanted: str

    def __str__(self) -> str:
        if self.component == WHOLE:
            return f"{self.existing}; wanted is {self.wanted}"
        return f"{self.component}: the corpus has {self.existing}, wanted is {self.wanted}"


def tokenizer_component(config: BytePair | Pretrained) -> str:
    """What decides the tokenizer besides the text: the training options, or the digest of a pretrained one."""
    if isinstance(config, BytePair):
        return config.model_dump_json()
    return f"pretrained {config.build([]).digest}"


def options_component(options: Mapping[str, JsonValue]) -> dict[str, str]:
    """One component for each option."""
    return {f"option {name}": json.dumps(value) for name, value in sorted(options.items())}


def differences(wanted: Mapping[str, str], existing: Mapping[str, str]) -> list[Difference]:
    """Every component in which the keys differ. A source that cannot be looked at now is taken to be unchanged."""
    found = []
    for component in sorted({*wanted, *existing}):
        has, needs = existing.get(component, "nothing"), wanted.get(component, "nothing")
        if has != needs and not (needs == UNKNOWN and component in existing):
            found.append(Difference(component, _short(has), _short(needs)))
    return found


def reusable(folder: Path, wanted: Mapping[str, str]) -> Corpus | list[Difference]:
    """The corpus of the folder when it is what is wanted, else why it is not."""
    try:
        corpus = Corpus.open(folder)
    except DataError as error:
        return [Difference(WHOLE, error.what, "a complete corpus")]
    return differences(wanted, corpus.manifest.key) or corpus


def _short(value: str) -> str:
    return value[:12] if len(value) in (40, 64) and set(value) <= set("0123456789abcdef") else value

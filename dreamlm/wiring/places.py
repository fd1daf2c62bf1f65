"""Where things lie: the home of corpora and caches, and the files of a run folder."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from dreamlm.data_sources.prepare import CORPUS_OPTIONS
from dreamlm.presets.schema import Preset


def home() -> Path:
    """`$DREAMLM_HOME`, or `~/.cache/dreamlm`: corpora and extraction caches; deleting it costs time only."""
    return Path(os.environ.get("DREAMLM_HOME") or Path.home() / ".cache" / "dreamlm").expanduser()


def corpus_folder(preset: Preset) -> Path:
    """The corpus of a preset when no folder is named: one for each preset name, tokenizer section and what of the data
    section decides the corpus, so that runs may draw from one corpus in several ways.

    Whether what lies there still fits its inputs is for the manifest to say, not for this name.
    """
    parts = preset.model_dump(mode="json", include={"data": set(CORPUS_OPTIONS), "tokenizer": True})
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return home() / "corpora" / f"{preset.name}-{digest[:12]}"


@dataclass(frozen=True)
class RunFolder:
    """The files of one run, beside its `checkpoints/`."""

    path: Path

    @property
    def preset(self) -> Path:
        return self.path / "preset.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def report(self) -> Path:
        return self.path / "training_report.json"

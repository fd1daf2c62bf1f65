"""Where things lie: the home of corpora and caches, and the files of a run folder."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from dreamlm.core.errors import CheckpointError
from dreamlm.core.training.recorders import MetricsFile
from dreamlm.data_sources.corpus import Corpus
from dreamlm.data_sources.prepare import CORPUS_OPTIONS, has_end
from dreamlm.data_sources.sources.source import SourceContext
from dreamlm.presets.schema import Preset

BYTES_PER_TOKEN = 5
"""A generous guess of the text behind one token."""


def home() -> Path:
    """`$DREAMLM_HOME`, or `~/.cache/dreamlm`: corpora and extraction caches; deleting it costs time, and runs whose
    inputs have changed since their corpora."""
    return Path(os.environ.get("DREAMLM_HOME") or Path.home() / ".cache" / "dreamlm").expanduser()


def stream_byte_limit(preset: Preset) -> int:
    """How much text to keep of a source without an end: enough for one pass to last for all of `train_tokens`."""
    return preset.train.train_tokens * BYTES_PER_TOKEN


def corpus_folder(preset: Preset, trained_on: str = "") -> Path:
    """The corpus of a preset when no folder is named: one for each preset name, tokenizer section and what of the data
    section decides the corpus, so that runs may draw from one corpus in several ways; where a source has no end, one
    for each amount of text. The manifest says whether what lies there still fits.

    A run that was trained on the corpus with the fingerprint `trained_on` finds it again, whatever it asks for now.
    """
    corpora = home() / "corpora"
    for folder in sorted(corpora.glob("*")) if trained_on else ():
        found = Corpus.find(folder)
        if found is not None and found.fingerprint == trained_on:
            return folder
    parts = preset.model_dump(mode="json", include={"data": set(CORPUS_OPTIONS), "tokenizer": True})
    if _has_endless_source(preset):
        parts["stream_byte_limit"] = stream_byte_limit(preset)
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return corpora / f"{preset.name}-{digest[:12]}"


def _has_endless_source(preset: Preset) -> bool:
    context = SourceContext(base_folder=Path.cwd(), cache_folder=home() / "cache")
    return not all(has_end(options.build(context), options) for options in preset.data.sources)


@dataclass(frozen=True)
class RunFolder:
    """The files of one run, beside its `checkpoints/`."""

    path: Path

    @property
    def preset(self) -> Path:
        return self.path / "preset.json"

    def write_preset(self, preset: Preset) -> None:
        temporary = self.preset.with_suffix(".json.tmp")
        temporary.write_text(json.dumps(preset.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")
        temporary.replace(self.preset)

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    def require_unbegun(self) -> None:
        """Raises: CheckpointError where a run without snapshots has taken steps: it had some, which are gone."""
        reached = MetricsFile(self.metrics).last_step
        if reached:
            raise CheckpointError(
                f"this run had reached step {reached:,}, and its snapshots are not here",
                where=str(self.path / "checkpoints"),
                hint="put them back, or start another run with --run OTHER",
            )

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def report(self) -> Path:
        return self.path / "training_report.json"

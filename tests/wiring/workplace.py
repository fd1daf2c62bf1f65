"""A folder with a tiny preset, its text, and the runs made from them."""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamlm.core.training.hooks import Hook, RunEnd, StepReport
from dreamlm.data_sources.progress import Silence
from dreamlm.presets.resolve import resolve
from dreamlm.presets.schema import Preset
from dreamlm.wiring.training import TrainRequest, train


class Witness(Hook):
    def __init__(self) -> None:
        self.notices: list[str] = []
        self.ends: list[RunEnd] = []

    def on_notice(self, text: str) -> None:
        self.notices.append(text)

    def on_end(self, end: RunEnd) -> None:
        self.ends.append(end)


class Cut(Witness):
    """Ends the run in a hook."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self._step = step

    def on_step(self, report: StepReport) -> None:
        if report.step == self._step:
            raise KeyboardInterrupt


@dataclass(frozen=True)
class Workplace:
    folder: Path

    def preset(self, *sets: str) -> Preset:
        return resolve(self.folder / "small.json", sets)

    def train(self, run: Path, *sets: str, preset: bool = True, **options: Any) -> Witness:
        """Train with the preset, or go on with the run's own; what the hook saw."""
        witness = Witness()
        request = TrainRequest(self.preset(*sets) if preset else None, run, sets=sets, workers=1, **options)
        train(request, witness, Silence())
        return witness


def furnish(folder: Path) -> Workplace:
    """A tiny preset, and the text that it is about; DREAMLM_HOME is set before."""
    write_text(folder / "text.jsonl", documents=200, seed=0)
    values = {
        "model": {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "seq_length": 32},
        "tokenizer": {"type": "bpe", "vocab_size": 300},
        "data": {"sources": [{"type": "jsonl", "paths": [str(folder / "text.jsonl")]}]},
        "train": {"train_tokens": 8 * 32 * 6, "per_gpu_batch_size": 8, "precision": "fp32"},
        "generate": {"max_new_tokens": 4},
    }
    (folder / "small.json").write_text(json.dumps(values))
    return Workplace(folder)


def write_text(path: Path, documents: int, seed: int) -> None:
    words = random.Random(seed)
    lines = [" ".join(words.choice(["cat", "dog", "saw", "the", "a"]) for _ in range(40)) for _ in range(documents)]
    path.write_text("\n".join(json.dumps({"text": line}) for line in lines))

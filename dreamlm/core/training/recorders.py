"""Hooks that write a run down: `metrics.jsonl`, TensorBoard events and `training_report.json`.

A resumed run continues from its snapshot, which may be older than the last line written; lines past the snapshot's
step are cut off, so that the file always tells one story.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, final

from dreamlm.core.training.hooks import EvaluationReport, Hook, RunEnd, RunStart, Sample, Saved, StepReport


@final
class MetricsFile(Hook):
    """One JSON object per line: `{"event": "step" | "evaluation" | "sample" | ..., "step": ..., ...}`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_start(self, start: RunStart) -> None:
        self._keep_until(start.step)
        self._write("start", asdict(start))

    def on_step(self, report: StepReport) -> None:
        self._write("step", asdict(report))

    def on_evaluation(self, report: EvaluationReport) -> None:
        self._write("evaluation", asdict(report))

    def on_sample(self, sample: Sample) -> None:
        self._write("sample", asdict(sample))

    def on_save(self, saved: Saved) -> None:
        self._write("save", asdict(saved))

    def on_end(self, end: RunEnd) -> None:
        self._write("end", asdict(end))

    def _write(self, event: str, values: Mapping[str, Any]) -> None:
        line = json.dumps({"event": event, **_json_numbers(values)}, ensure_ascii=False)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def _keep_until(self, step: int) -> None:
        if not self._path.exists():
            return
        kept = self._path.with_suffix(".jsonl.tmp")
        with self._path.open(encoding="utf-8") as old, kept.open("w", encoding="utf-8") as new:
            for line in old:
                # A line cut short by a kill is the last one, and is past every snapshot.
                if line.endswith("\n") and json.loads(line)["step"] <= step:
                    new.write(line)
            new.flush()
            os.fsync(new.fileno())
        kept.replace(self._path)


@final
class TensorBoard(Hook):
    """Scalars by token count, in `folder`; steps past the snapshot are purged on resume."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def on_start(self, start: RunStart) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self._folder), purge_step=start.step + 1 if start.resumed else None)

    def on_step(self, report: StepReport) -> None:
        scalars = {
            "train/nll": report.nll,
            "train/gradient_norm": report.gradient_norm,
            "train/learning_rate": report.learning_rate,
            "train/tokens_per_second": report.tokens_per_second,
            **{f"train/objective/{name}": value for name, value in report.objectives.items()},
        }
        self._add(scalars, report.step)

    def on_evaluation(self, report: EvaluationReport) -> None:
        scalars = {
            "validation/nll": report.nll,
            "validation/perplexity": report.perplexity,
            "validation/bits_per_byte": report.bits_per_byte,
            **{f"validation/source/{name}": value for name, value in report.sources.items()},
        }
        self._add(scalars, report.step)

    def on_sample(self, sample: Sample) -> None:
        self._writer.add_text("sample", f"**{sample.prompt}**{sample.text}", sample.step)

    def on_end(self, end: RunEnd) -> None:
        self._writer.close()

    def _add(self, scalars: Mapping[str, float], step: int) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)


@final
class ReportFile(Hook):
    """`training_report.json`: how the run ended and what it reached; replaced as a whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._evaluations: list[dict[str, Any]] = []
        self._start: dict[str, Any] = {}

    def on_start(self, start: RunStart) -> None:
        self._start = asdict(start)

    def on_evaluation(self, report: EvaluationReport) -> None:
        self._evaluations.append(_json_numbers(asdict(report)))

    def on_end(self, end: RunEnd) -> None:
        report = {"end": _json_numbers(asdict(end)), "start": self._start, "evaluations": self._evaluations}
        temporary = self._path.with_suffix(".json.tmp")
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        temporary.replace(self._path)


def _json_numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN and no infinity: they become strings, so that a diverged step stays visible and parseable."""

    def number(value: Any) -> Any:
        if isinstance(value, Mapping):
            return _json_numbers(value)
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    return {key: number(value) for key, value in values.items()}

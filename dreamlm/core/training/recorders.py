"""Hooks that write a run down: `metrics.jsonl` and `training_report.json`.

A resumed run continues from its snapshot, which may be older than the last line written; lines past the snapshot's
step are cut off, so that the file always tells one story. A full disk ends no run: the snapshots wait for space, what
is written down waits with them. Neither does a damaged line: what can be read is kept, and the rest is said to be lost.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import asdict
from pathlib import Path
from typing import Any, final

from dreamlm.core.durable import sync_folder
from dreamlm.core.errors import is_out_of_space
from dreamlm.core.training.by_stage import by_stage
from dreamlm.core.training.hooks import (
    EvaluationReport,
    Hook,
    Hooks,
    IterationReport,
    PreferenceMeasured,
    RewardReport,
    RunEnd,
    RunStart,
    Sample,
    Saved,
    StepReport,
    figures,
    recorded,
)


@final
class MetricsFile(Hook):
    """One JSON object per line: `{"event": "step" | "evaluation" | "sample" | ..., "step": ..., ...}`."""

    def __init__(self, path: Path, on_notice: Callable[[str], None] = lambda message: None) -> None:
        self._path, self._on_notice = path, on_notice
        self._waiting = b""
        """What a full disk has not taken yet."""

    def on_start(self, start: RunStart) -> None:
        if self._path.exists():
            told = self.keep_until(start.step)
            if told < start.step:
                self._on_notice(f"{self._path}: steps {told + 1} to {start.step} are missing, and stay so")
        self._write("start", asdict(start))

    def on_step(self, report: StepReport) -> None:
        self._write("step", asdict(report))

    def on_evaluation(self, report: EvaluationReport) -> None:
        self._write("evaluation", recorded(report))

    def on_iteration(self, report: IterationReport) -> None:
        self._write("iteration", figures(report))

    def on_reward(self, report: RewardReport) -> None:
        self._write("reward", figures(report))

    def on_preference(self, report: PreferenceMeasured) -> None:
        self._write("preference", asdict(report))

    def on_sample(self, sample: Sample) -> None:
        self._write("sample", asdict(sample))

    def on_saving(self, step: int) -> None:
        """No snapshot is of a later step than what a power cut leaves of the file, while the disk has room for both."""
        self._write_down(durably=True)

    def on_save(self, saved: Saved) -> None:
        self._write("save", asdict(saved))

    def on_end(self, end: RunEnd) -> None:
        self._write("end", recorded(end))

    def _write(self, event: str, values: Mapping[str, Any]) -> None:
        line = json.dumps({"event": event, **_json_numbers(values)}, ensure_ascii=False, allow_nan=False)
        self._waiting += line.encode() + b"\n"
        self._write_down()

    def _write_down(self, durably: bool = False) -> None:
        try:
            with self._path.open("ab", buffering=0) as file:
                while self._waiting:
                    self._waiting = self._waiting[file.write(self._waiting) :]
                if durably:
                    os.fsync(file.fileno())
        except OSError as error:
            if not is_out_of_space(error):
                raise

    @property
    def last_step(self) -> int:
        """The last step that the file tells of; 0 when there is none."""
        if not self._path.exists():
            return 0
        with self._path.open("rb") as lines:
            return max((event["step"] for line in lines if (event := _event(line)) is not None), default=0)

    def keep_until(self, step: int) -> int:
        """Cut off what was written past a step, a line that a kill cut short, and lines that the disk has damaged.

        Damaged lines are named in a notice.  Returns the last step that is left.
        """
        if not self._path.exists():
            return 0
        damaged: list[int] = []
        left_out: set[int] = set()
        told = 0
        with self._path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                event = _event(line)
                if event is not None and event["step"] <= step:
                    told = max(told, event["step"])
                    continue
                left_out.add(number)
                if event is None and line.endswith(b"\n"):  # else a kill cut it short, past every snapshot
                    damaged.append(number)
        if left_out:
            self._leave_out(left_out)
        if damaged:
            which = f"line {damaged[0]}" + (f" and {len(damaged) - 1} more are" if damaged[1:] else " is")
            self._on_notice(f"{self._path}: {which} unreadable and left out; the rest of the metrics is kept")
        return told

    def _leave_out(self, numbers: Set[int]) -> None:
        kept = self._path.with_suffix(".jsonl.tmp")
        try:
            with self._path.open("rb") as old, kept.open("wb") as new:
                new.writelines(line for number, line in enumerate(old, start=1) if number not in numbers)
                new.flush()
                os.fsync(new.fileno())
            kept.replace(self._path)
            sync_folder(self._path.parent)
        finally:
            kept.unlink(missing_ok=True)  # where the disk was full


@final
class ReportFile(Hook):
    """`training_report.json`: how the run ended, how it last began, every evaluation, and the stages of a curriculum;
    replaced as a whole.

    All but the end is read from the run's metrics, so that it does not matter how often the run was stopped. Damaged
    lines do not count; `MetricsFile` tells of them when the run goes on.
    """

    def __init__(self, path: Path, metrics: Path) -> None:
        self._path, self._metrics = path, metrics

    def tells(self, step: int) -> bool:
        """Whether the report is there and says that the run finished at this step."""
        try:
            end = json.loads(self._path.read_text(encoding="utf-8"))["end"]
            return (end["reason"], end["step"]) == ("finished", step)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def on_end(self, end: RunEnd) -> None:
        evaluations, start = list(self._events("evaluation")), list(self._events("start"))
        ended = recorded(end)
        if evaluations and ended["bits_per_byte"] is None:
            ended["bits_per_byte"] = evaluations[-1]["bits_per_byte"]
        report = {"end": ended, "start": start[-1] if start else {}, "evaluations": evaluations}
        if rewards := list(self._events("reward")):
            report["rewards"] = rewards
        if any(one.get("stage") for one in start):
            report["stages"] = by_stage(self._events("step"), evaluations)
        self._replace(json.dumps(_json_numbers(report), indent=2, allow_nan=False) + "\n")

    def _replace(self, text: str) -> None:
        """A full disk keeps the report that was there: how the run ended is said all the same."""
        temporary = self._path.with_suffix(".json.tmp")
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(self._path)
        except OSError as error:
            if not is_out_of_space(error):
                raise
        finally:
            temporary.unlink(missing_ok=True)  # where the disk was full

    def _events(self, kind: str) -> Iterator[dict[str, Any]]:
        if not self._metrics.exists():
            return
        begins = f'{{"event": "{kind}",'.encode()
        with self._metrics.open("rb") as lines:
            for line in lines:
                if line.startswith(begins) and (event := _event(line)) is not None:
                    del event["event"]
                    yield event


def complete_report(metrics: MetricsFile, report: ReportFile, end: RunEnd) -> None:
    """Write down the end of a run that was killed behind its last snapshot, and nothing past it."""
    metrics.keep_until(end.step)
    if not report.tells(end.step):
        Hooks([metrics, report]).on_end(end)


def _event(line: bytes) -> dict[str, Any] | None:
    """The event of a line, or None when the line is cut short or damaged."""
    try:
        event = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    whole = isinstance(event, dict) and isinstance(event.get("step"), int) and "event" in event
    return event if whole else None


def _json_numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN and no infinity: they become strings, so that a diverged step stays visible and parseable."""

    def number(value: Any) -> Any:
        if isinstance(value, Mapping):
            return _json_numbers(value)
        if isinstance(value, (list, tuple)):
            return [number(one) for one in value]
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    return {key: number(value) for key, value in values.items()}

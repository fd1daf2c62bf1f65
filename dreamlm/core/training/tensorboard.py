"""A run's curves for TensorBoard.

A folder's event files are read in the order of their names, which begin with the second that each was made in; what a
later one purges is gone from the earlier ones alone.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

from dreamlm.core.errors import is_out_of_space
from dreamlm.core.training.hooks import (
    EvaluationReport,
    Hook,
    IterationReport,
    PreferenceMeasured,
    RewardReport,
    RunEnd,
    RunStart,
    Sample,
    StepReport,
    figures,
)

_BEGINNING = "events.out.tfevents."


@final
class TensorBoard(Hook):
    """Scalars by step, in `folder`; steps past the snapshot are purged on resume. A full disk leaves gaps."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None
        self._opened = -1  # the second in which the last file was made

    def on_start(self, start: RunStart) -> None:
        self._write(lambda writer: None, purge_step=start.step + 1)

    def on_step(self, report: StepReport) -> None:
        scalars = {
            "train/nll": report.nll,
            "train/gradient_norm": report.gradient_norm,
            "train/learning_rate": report.learning_rate,
            "train/tokens_per_second": report.tokens_per_second,
            **{f"train/objective/{name}": value for name, value in report.objectives.items()},
            **{f"train/loss_factor/{name}": value for name, value in report.loss_factors.items()},
            **{
                f"probe/{name}" if len(values) == 1 else f"probe/{name}/{place}": value
                for name, values in report.probes.items()
                for place, value in enumerate(values)
            },
            **({} if report.stage is None else {"train/stage": report.stage.number}),
        }
        self._add(scalars, report.step)

    def on_evaluation(self, report: EvaluationReport) -> None:
        scalars = {
            "validation/nll": report.nll,
            "validation/perplexity": report.perplexity,
            "validation/bits_per_byte": report.bits_per_byte,
            **({"validation/monte_carlo_error": report.monte_carlo_error} if report.is_bound else {}),
            **{f"validation/source/{name}": value for name, value in report.sources.items()},
        }
        self._add(scalars, report.step)

    def on_iteration(self, report: IterationReport) -> None:
        values = figures(report)
        self._add({f"rl/{name}": value for name, value in values.items() if name != "step"}, report.step)

    def on_reward(self, report: RewardReport) -> None:
        scalars = {f"held_out/{name}": value for name, value in report.components.items()}
        self._add({"held_out/reward": report.reward, "held_out/kl": report.kl, **scalars}, report.step)

    def on_preference(self, report: PreferenceMeasured) -> None:
        scalars = {
            "validation/loss": report.loss,
            "validation/accuracy": report.accuracy,
            "validation/calibration_error": report.calibration_error,
        }
        self._add(scalars, report.step)

    def on_sample(self, sample: Sample) -> None:
        self._write(lambda writer: writer.add_text("sample", f"**{sample.prompt}**{sample.text}", sample.step))

    def on_end(self, end: RunEnd) -> None:
        self._write(lambda writer: writer.close())

    def _add(self, scalars: Mapping[str, float], step: int) -> None:
        def add(writer: Any) -> None:
            for name, value in scalars.items():
                writer.add_scalar(name, value, step)

        self._write(add)

    def _write(self, what: Callable[[Any], None], purge_step: int | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        try:
            if self._writer is None:
                if self._opened == (second := int(time.time())):
                    return  # another file of this second would be read in any order
                self._opened = second
                _end_before(second, self._folder)
                self._writer = SummaryWriter(str(self._folder), purge_step=purge_step)
            what(self._writer)
        except OSError as error:
            if not is_out_of_space(error):
                raise
            self._writer = None  # its thread has ended; the next second opens another file


def _end_before(second: int, folder: Path) -> None:
    """Where the clock has gone back, give the files that are there names that come before those of this second."""
    files = sorted(folder.glob(f"{_BEGINNING}[0-9]*.*"))
    if not files or files[-1].name < f"{_BEGINNING}{second:010d}":
        return
    first = min(second, *map(_second, files)) - len(files)  # all of these names are free
    for number, file in enumerate(files, start=first):
        _, _, maker = file.name.removeprefix(_BEGINNING).partition(".")
        file.rename(folder / f"{_BEGINNING}{number:010d}.{maker}")


def _second(file: Path) -> int:
    """The second that the name of an event file begins with."""
    return int(file.name.removeprefix(_BEGINNING).partition(".")[0])

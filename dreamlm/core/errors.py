"""The errors dreamlm raises on purpose. They carry data; only the command line renders them and exits.

An error says what happened, where (file, line or key), what the valid values are, and the command that helps.
Anything that is not a `DreamLMError` is a bug of ours and keeps its traceback.
"""

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


class DreamLMError(Exception):
    """What happened, where, which values are valid, and what to do. Ends the command with `exit_code`."""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str = "", valid: Sequence[str] = (), hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.valid = tuple(valid)
        self.hint = hint

    def __str__(self) -> str:
        parts = [self.what]
        if self.where:
            parts.append(f"at: {self.where}")
        if self.valid:
            parts.append(f"valid: {', '.join(self.valid)}")
        if self.hint:
            parts.append(f"help: {self.hint}")
        return "\n".join(parts)


class UserMistake(DreamLMError):
    """The request cannot be carried out as it was written; nothing was changed."""

    exit_code = 2


@dataclass(frozen=True)
class Mistake:
    """One mistake in a preset: the dotted key, what is wrong with it, and the suggestion or valid values."""

    key: str
    message: str
    hint: str = ""


class PresetError(UserMistake):
    """Every mistake of a preset at once."""

    def __init__(self, preset: str, mistakes: Sequence[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        lines = [f"  {m.key}: {m.message}" + (f" ({m.hint})" if m.hint else "") for m in self.mistakes]
        count = f"{len(lines)} mistake{'s' if len(lines) > 1 else ''}"
        super().__init__(
            f"preset {preset} has {count}:\n" + "\n".join(lines), hint="dreamlm presets schema prints every key"
        )


class RangeError(UserMistake):
    """A number lies outside the range its owner states."""


class DataError(DreamLMError):
    """Input data, or a prepared corpus, is missing, damaged or not what its manifest says."""


@dataclass(frozen=True)
class SourceFailure:
    """Why one data source gave no documents."""

    source: str
    reason: str


class AllSourcesFailed(DataError):
    """No source gave a document; nothing was written."""

    def __init__(self, failures: Sequence[SourceFailure]) -> None:
        self.failures = tuple(failures)
        lines = "\n".join(f"  {failure.source}: {failure.reason}" for failure in self.failures)
        super().__init__(f"every data source failed, nothing was written:\n{lines}")


class CheckpointError(DreamLMError):
    """A snapshot is missing, incomplete or damaged."""


class StoreLocked(UserMistake):
    """Another process writes to this run folder."""


class OutOfSpace(DreamLMError):
    """The disk has not enough room for what is about to be written."""

    def __init__(self, path: str, needed_bytes: int, free_bytes: int, elsewhere: str, reason: str = "") -> None:
        """`elsewhere`: what the user may choose instead; `reason`: what the system said, told where bytes are free."""
        self.path, self.needed_bytes, self.free_bytes = path, needed_bytes, free_bytes
        bytes_told = f"{needed_bytes / 1e6:,.1f} MB needed, {free_bytes / 1e6:,.1f} MB free"
        what, hint = bytes_told, f"free some space, or choose {elsewhere}"
        if reason and free_bytes >= needed_bytes:
            what = f"{reason}, though bytes are free ({bytes_told})"
            hint = f"a quota, or the number of files, is used up: delete something, or choose {elsewhere}"
        super().__init__(f"not enough disk space: {what}", where=path, hint=hint)


def is_out_of_space(error: OSError) -> bool:
    """Whether the error means that the disk, or the user's quota on it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


class ResumeMismatch(UserMistake):
    """The run on disk and the request differ in something that must not change silently."""


class LossNotFinite(DreamLMError):
    """A held-out loss is NaN or infinite."""


class TrainingFailed(DreamLMError):
    """Training cannot go on: a sanity check failed, or too many steps in a row were not finite."""


class OutOfMemory(TrainingFailed):
    """A phase of training does not fit into memory, and a smaller micro-batch would not help."""


class NotAboveChance(UserMistake):
    """A reward model predicts held-out preferences no better than a coin, as far as its held-out pairs can tell."""

    def __init__(self, accuracy: float, low: float, high: float, pairs: int, where: str) -> None:
        self.accuracy, self.low, self.high, self.pairs = accuracy, low, high, pairs
        super().__init__(
            f"this reward model is not above chance: it predicts {accuracy:.1%} of {pairs:,} held-out preferences, "
            f"and with 95 % confidence {low:.1%} to {high:.1%}",
            where=where,
            valid=["a lower end above 50 %"],
            hint="train it on more or cleaner pairs, or from a better model: dreamlm rl reward",
        )


class MicroBatchTooLarge(DreamLMError):
    """A micro-batch of `rows` does not fit into memory; `fewer` may, once the processes are started again.

    Its exit code (EX_TEMPFAIL of sysexits.h) tells whoever started the processes that another try may succeed.
    """

    exit_code = 75

    def __init__(
        self, rows: int, fewer: int, hint: str, where: str = "train.per_gpu_batch_size", unit: str = "rows"
    ) -> None:
        """`unit`: what there are so many of."""
        self.rows, self.fewer, self.unit = rows, fewer, unit
        super().__init__(f"out of memory with {rows} {unit} in a micro-batch", where=where, hint=hint)

    @property
    def remedy(self) -> str:
        parts = self.rows // self.fewer
        return f"out of memory: micro-batch {self.rows} -> {self.fewer} {self.unit}, accumulation x{parts}"


class Paused(DreamLMError):
    """An alarm ended the call, so that somebody may look; a snapshot was committed, and the same command goes on.

    Neither a failure nor a signal, and nothing to be tried again unseen: its exit code is its own.
    """

    exit_code = 3

    def __init__(
        self, iteration: int, alarms: Sequence[str], learning_rate: float, kl_coefficient: float, hint: str
    ) -> None:
        """`learning_rate` and `kl_coefficient`: those that the run goes on with."""
        self.iteration, self.alarms = iteration, tuple(alarms)
        self.learning_rate, self.kl_coefficient = learning_rate, kl_coefficient
        super().__init__(
            f"paused by an alarm at iteration {iteration}: {'; '.join(alarms)}; a snapshot was saved, and the run goes "
            f"on with the learning rate {learning_rate:.3g} and the KL coefficient {kl_coefficient:.3g}",
            hint=hint,
        )


class Interrupted(DreamLMError):
    """A signal asked the run to stop; a snapshot was committed. `signal_number` decides the exit code (128 + n)."""

    def __init__(self, signal_number: int, what: str) -> None:
        self.signal_number = signal_number
        super().__init__(what)

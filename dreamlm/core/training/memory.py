"""Running out of memory: recognise it, and either halve the micro-batch or say which phase wants which change.

One process of plain PyTorch halves its micro-batch and repeats the step. A rank among several cannot: the others wait
for it inside a collective. It leaves a word for them, all of them end, and whoever started them may start them again.

The windows of a step stay the same either way, and its gradient is summed from more parts: the losses differ from
those of the larger micro-batch by rounding, and where something belongs to a micro-batch by that (see `rows.py`).
"""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import final

import torch
from torch import distributed

from dreamlm.core.errors import DreamLMError, MicroBatchTooLarge, OutOfMemory, UserMistake
from dreamlm.core.training.backend.launch import MICRO_ROWS

_MESSAGES = (
    "can't allocate memory",
    "not enough memory",
    "Cannot allocate memory",
    "CUDA error: out of memory",  # of the driver, where torch's allocator was not asked
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""Of RuntimeErrors."""
_WORD = "dreamlm/out_of_memory"
_SMALLER_MODEL = "lower model.hidden_size or model.num_layers"


@dataclass(frozen=True)
class Phase:
    """A part of training whose need of memory does not depend on the micro-batch."""

    doing: str
    hint: str
    where: str = ""

    def failure(self) -> OutOfMemory:
        return OutOfMemory(f"out of memory while {self.doing}", where=self.where, hint=self.hint)


BUILDING = Phase("placing the model on its device", _SMALLER_MODEL, "model")
READING = Phase("reading the windows of a step", "lower train.per_gpu_batch_size or model.seq_length")
CHECKING = Phase("checking the model during the first steps", _SMALLER_MODEL, "train.sanity_checks")
UPDATING = Phase(
    "updating the weights",
    f"{_SMALLER_MODEL}; several processes share the optimizer's state with train.zero_stage=1 or higher",
    "train.optimizer",
)
DIAGNOSING = Phase("looking for the cause of a step that is not finite", _SMALLER_MODEL)
EVALUATING = Phase(
    "evaluating on held-out text",
    f"lower eval.rows, or {_SMALLER_MODEL}; at train.zero_stage=3 every process holds all weights meanwhile",
    "eval.rows",
)
LOADING = Phase("placing the model on its device", "extend it to shorter windows, or choose another --device")
MEASURING = Phase("measuring the model", "lower --batch-size or the windows' length, or measure on another --device")
WRITING = Phase("writing texts", "lower --batch-size or the windows' length, or write on another --device")
SAMPLING = Phase("writing samples", "lower generate.rows, or set train.sample_prompts=[]", "generate.rows")
SAVING = Phase("gathering a snapshot in the memory of the first process", _SMALLER_MODEL)


@final
class within_memory:
    """The block raises `failure()` when memory runs out in it, on this rank or on one that it waited for.

    The failure is made here: a frame that held it would keep the tensors of the failed step alive, in a circle. So
    would a generator of `contextlib`, whose frame knows the one that threw the error into it (Python 3.12 and later).
    """

    def __init__(self, failure: Callable[[], DreamLMError]) -> None:
        self._failure = failure

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if not isinstance(error, Exception) or isinstance(error, DreamLMError):
            return
        if is_out_of_memory(error):
            _tell_the_others()
        elif not _another_told():
            return
        raise self._failure() from error


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES)


def halved(micro_rows: int) -> int:
    """The largest divisor of a micro-batch of two rows or more up to its half."""
    return next(rows for rows in range(micro_rows // 2, 0, -1) if micro_rows % rows == 0)


def micro_batch_too_large(micro_rows: int, process_rows: int) -> DreamLMError:
    """What to raise when a micro-batch does not fit, with the settings that make it smaller and keep the step.

    `process_rows`: windows of one step that this process reads.
    """
    if micro_rows == 1:
        return OutOfMemory(
            "out of memory with 1 row in a micro-batch, which cannot be halved",
            where="train.per_gpu_batch_size",
            hint="lower model.seq_length or model.hidden_size, or set train.activation_checkpointing=true",
        )
    fewer = halved(micro_rows)
    settings = {"per_gpu_batch_size": fewer, "accumulation_steps": process_rows // fewer}
    options = " ".join(f"--set train.{name}={value}" for name, value in settings.items())
    return MicroBatchTooLarge(micro_rows, fewer, f"the same command with {options}: the step stays the same")


def fitting(most_rows: int, process_rows: int) -> int:
    """The largest micro-batch of up to so many rows (one at least) that makes up the step of a process."""
    return next(rows for rows in range(min(most_rows, process_rows), 0, -1) if process_rows % rows == 0)


def launcher_limit() -> int | None:
    """The most rows of a micro-batch, where `dreamlm train --nproc` saw the processes run out of memory with more.

    Raises: UserMistake when the environment holds no such number.
    """
    text = os.environ.get(MICRO_ROWS)
    if text is None:
        return None
    if not text.isdecimal() or int(text) == 0:
        raise UserMistake(f"{text!r} is no number of rows", where=MICRO_ROWS, valid=["1 or more"])
    return int(text)


def _tell_the_others() -> None:
    """Before this rank's end: it closes their connections, and they will ask why."""
    if distributed.is_initialized():
        with suppress(distributed.DistError):  # the first rank, which keeps the word, has ended by itself
            distributed.distributed_c10d._get_default_store().set(_WORD, "")


def _another_told() -> bool:
    if not distributed.is_initialized():
        return False
    with suppress(distributed.DistError):
        return bool(distributed.distributed_c10d._get_default_store().check([_WORD]))
    return False

"""Running out of memory: recognise it, and halve the micro-batch while the optimizer step stays the same."""

import torch

from dreamlm.core.errors import TrainingFailed

_CPU_MESSAGES = ("can't allocate memory", "not enough memory", "Cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _CPU_MESSAGES)


def halved(micro_rows: int) -> int:
    """The largest divisor of the micro-batch up to its half.  Raises: TrainingFailed when it is one row already."""
    if micro_rows == 1:
        raise TrainingFailed(
            "out of memory with 1 row in a micro-batch, which cannot be halved",
            where="train.per_gpu_batch_size",
            hint="lower model.seq_length or model.hidden_size, or set train.activation_checkpointing=true",
        )
    return next(rows for rows in range(micro_rows // 2, 0, -1) if micro_rows % rows == 0)

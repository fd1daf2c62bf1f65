"""Running out of memory: recognise it, and halve the micro-batch while the optimizer step stays the same."""

import torch

from dreamlm.core.errors import TrainingFailed

_CPU_MESSAGES = ("can't allocate memory", "not enough memory", "Cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _CPU_MESSAGES)


def halved(micro_rows: int) -> int:
    """Half of the micro-batch, which must be divisible.  Raises: TrainingFailed when it cannot be halved."""
    if micro_rows % 2:
        raise TrainingFailed(
            f"out of memory with {micro_rows} row{'s' if micro_rows > 1 else ''} in a micro-batch, "
            "and an odd number cannot be halved",
            where="train.per_gpu_batch_size",
            hint="lower model.seq_length or model.hidden_size, or set train.activation_checkpointing=true",
        )
    return micro_rows // 2

"""A step that does not fit into memory is tried again in smaller micro-batches, where one process can do that alone."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from dreamlm.core.errors import DreamLMError, MicroBatchTooLarge
from dreamlm.core.training.backend.backend import Backend
from dreamlm.core.training.memory import within_memory

Result = TypeVar("Result")


def repeat_until_it_fits(
    backend: Backend,
    rows: int,
    compute: Callable[[int], Result],
    too_large: Callable[[int], DreamLMError],
    on_notice: Callable[[str], None],
) -> Result:
    """`compute(rows)`, with `rows` in a micro-batch, or as few of them as fit.

    `too_large(rows)` is what to raise when a micro-batch of so many does not fit.

    Raises: what it says, unless that is a MicroBatchTooLarge and the backend can repeat a step.
    """
    while True:
        try:
            with within_memory(partial(too_large, rows)):
                return compute(rows)
        except MicroBatchTooLarge as error:
            if not backend.can_repeat:
                raise
            backend.discard()
            on_notice(f"{error.remedy}; the step is the same")
            rows = error.fewer

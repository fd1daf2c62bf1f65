"""The pairs of a step as micro-batches, and which of them each process computes.

Micro-batches are numbered over all processes, so that each is the same however many processes there are. Full steps
divide among them. The last, shorter step of an epoch may not: processes that would have a micro-batch less than others
read a pair without learning from it, since all must pass equally many.
"""

import math
from collections.abc import Sequence

from dreamlm.core.errors import DreamLMError, MicroBatchTooLarge, OutOfMemory, UserMistake
from dreamlm.core.objectives.preference import PairBatch
from dreamlm.core.rl.pair_reading import ReadPair
from dreamlm.core.training.memory import halved

PER_STEP, PER_MICRO_BATCH = "rl.reward_model.pairs_per_step", "rl.reward_model.pairs_per_micro_batch"


def share_of(
    pairs: Sequence[ReadPair], micro_pairs: int, padding_id: int, rank: int, world_size: int
) -> list[PairBatch]:
    """The micro-batches of one process, of `micro_pairs` pairs or fewer; equally many on every process."""
    number = math.ceil(len(pairs) / micro_pairs)
    mine = range(rank, world_size * math.ceil(number / world_size), world_size)
    shortest = min(pairs, key=lambda pair: pair.tokens)
    idle = PairBatch([shortest], padding_id, counts=False)
    return [
        PairBatch(pairs[place * micro_pairs : (place + 1) * micro_pairs], padding_id) if place < number else idle
        for place in mine
    ]


def check_pair_shares(pairs_per_step: int, micro_pairs: int, world_size: int) -> None:
    """Raises: UserMistake when several processes cannot share the pairs of a full step."""
    if world_size == 1 or pairs_per_step % (world_size * micro_pairs) == 0:
        return
    what = f"{world_size} processes cannot share the {pairs_per_step} pairs of a step in micro-batches of {micro_pairs}"
    share, rest = divmod(pairs_per_step, world_size)
    if rest:
        hint = f"start as many processes as divide {pairs_per_step}; a new run may choose other pairs_per_step"
        raise UserMistake(what, where=PER_STEP, hint=hint)
    largest = next(pairs for pairs in range(min(micro_pairs, share), 0, -1) if share % pairs == 0)
    raise UserMistake(what, where=PER_MICRO_BATCH, hint=f"--set {PER_MICRO_BATCH}={largest}: the steps stay the same")


def pairs_too_large(micro_pairs: int) -> DreamLMError:
    """What to raise when a micro-batch of so many pairs does not fit into memory."""
    if micro_pairs == 1:
        return OutOfMemory(
            "out of memory with 1 pair in a micro-batch, which cannot be halved",
            where=PER_MICRO_BATCH,
            hint="start from a smaller model, or one that reads shorter windows",
        )
    fewer = halved(micro_pairs)
    hint = f"the same command with --set {PER_MICRO_BATCH}={fewer}: the steps stay the same"
    return MicroBatchTooLarge(micro_pairs, fewer, hint, where=PER_MICRO_BATCH, unit="pairs")

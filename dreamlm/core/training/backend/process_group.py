"""Where this process stands among the others of a run, and how they find each other.

`torchrun`, the `deepspeed` launcher and `dreamlm train --nproc N` all say it in the same environment variables. A
process without them is alone.
"""

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

from dreamlm.core.errors import UserMistake

Value = TypeVar("Value")

PATIENCE = timedelta(hours=12)
"""How long a rank waits for the others: as long as the first one may wait for space on a full disk.

A rank that dies is noticed at once by the launcher, not by this limit.
"""


@dataclass(frozen=True)
class Place:
    """This process among all of the run (`rank` of `world_size`), and among those of its machine (`local_rank`)."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1

    @classmethod
    def from_environment(cls) -> "Place":
        """Raises: UserMistake when only some of the variables are there, or one is no number in range."""
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
        missing = [name for name in names if name not in os.environ]
        if len(missing) == len(names):
            return cls()
        if missing:
            raise UserMistake(
                f"the environment describes a group of processes, but lacks {', '.join(missing)}",
                where="environment",
                hint="start with `dreamlm train --nproc N`, torchrun or deepspeed, which set all of them",
            )
        try:
            place = cls(*(int(os.environ[name]) for name in names))
        except ValueError as error:
            raise UserMistake(f"RANK, LOCAL_RANK or WORLD_SIZE is no number: {error}", where="environment") from error
        if not (0 <= place.rank < place.world_size and place.local_rank >= 0):
            raise UserMistake(
                f"rank {place.rank} of {place.world_size} processes cannot be",
                where="environment variables RANK and WORLD_SIZE",
                valid=[f"0 to {place.world_size - 1}"],
            )
        return place

    def device(self) -> torch.device:
        """The GPU of this process, or the CPU when there is none.  Raises: UserMistake when there are too few GPUs."""
        if not torch.cuda.is_available():
            return torch.device("cpu")
        count = torch.cuda.device_count()
        if self.local_rank >= count:
            raise UserMistake(
                f"process {self.local_rank} of this machine has no GPU: there are {count}",
                hint=f"--nproc {count}, or --device cpu",
            )
        return torch.device("cuda", self.local_rank)


def join(place: Place, device: torch.device) -> None:
    """Meet the other processes: waits until every rank has come. A second call does nothing.

    Imports DeepSpeed, which looks at the environment and prints as it is imported: nobody else may do it before.
    Nothing is compiled: DeepSpeed's shared-memory operator for CPUs needs a compiler and 40 seconds, gloo neither.
    """
    os.environ["DS_ACCELERATOR"] = device.type
    if place.world_size == 1:
        # 0 lets the system choose a free port; nobody else will ever ask for it.
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
        for name, value in alone.items():
            os.environ.setdefault(name, value)
    deepspeed = importlib.import_module("deepspeed")
    _quieten(logging.getLogger("DeepSpeed"))
    # DeepSpeed 0.19 calls two collectives by the names they had before torch 2.13, hundreds of times.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    if device.type == "cpu":
        importlib.import_module("deepspeed.ops").__dict__["__compatible_ops__"] = {}
    else:
        torch.cuda.set_device(device)
    if not distributed.is_initialized():
        backend = "gloo" if device.type == "cpu" else "nccl"
        deepspeed.init_distributed(dist_backend=backend, timeout=PATIENCE, auto_mpi_discovery=False, verbose=False)


@contextmanager
def gathered(place: Place, device: torch.device) -> Iterator[None]:
    """The block runs among the other processes of the run, if there are any; the group is left however it ends."""
    if place.world_size > 1:
        join(place, device)
    try:
        yield
    finally:
        leave()


def as_the_first_rank(choice: str, choices: Sequence[str], device: torch.device) -> str:
    """What rank 0 chose, where each rank measured for itself and may have come to another result. Collective."""
    if not distributed.is_initialized():
        return choice
    number = torch.tensor(choices.index(choice), device=device)
    distributed.broadcast(number, src=0)
    return choices[int(number.item())]


def from_the_first_rank(value: Value, device: torch.device) -> Value:
    """What rank 0 holds, on every rank. Collective; `value` can be pickled, and that of the others is dropped."""
    if not distributed.is_initialized():
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0, device=device)
    return values[0]


@contextmanager
def first_rank_first() -> Iterator[None]:
    """The block runs on rank 0 while the others wait, then on them: it may write what they read. Collective.

    When it fails on rank 0, that rank's end frees the others.
    """
    if distributed.is_initialized() and distributed.get_rank() > 0:
        distributed.barrier()
    yield
    if distributed.is_initialized() and distributed.get_rank() == 0:
        distributed.barrier()


def leave() -> None:
    """Take leave of the other processes; does nothing when there is no group."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _quieten(logger: logging.Logger) -> None:
    """Errors alone, and on stderr: stdout belongs to results."""
    logger.setLevel(logging.ERROR)
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(sys.stderr)

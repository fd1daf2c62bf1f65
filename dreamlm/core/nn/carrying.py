"""A carry as a file: safetensors with every layer's state by its name, and the plain numbers in the header.

    documents, last_document, next_position                   what belongs to the rows
    layers.0/key, layers.0/value                              a key/value cache
    segment_summary/memory.summary, segment_summary/pending   a module's state
    thought_stack/stack.thoughts, thought_stack/count.thoughts  the newest of what it wrote, and how many those are

Shapes: B rows, P tokens so far.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dreamlm.core.errors import CheckpointError, ResumeMismatch, UserMistake
from dreamlm.core.inference import inference
from dreamlm.core.modules.ring import Ring
from dreamlm.core.modules.state import NOBODY, ModuleState
from dreamlm.core.nn.cache import KeyValueCache
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.signal import Carry

_ENTRY = "dreamlm_carry"
_MEMORY, _STACK, _COUNT = "memory.", "stack.", "count."
_LENGTH_AT = {"documents": 1, "key": 2, "value": 2}
"""The dimension that grows with the tokens."""
_MAY_BE_EMPTY = ("pending", "pending_documents")
"""Between two segments nothing waits."""


class _Numbers(BaseModel):
    """What a carry holds besides tensors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    tokens: Annotated[int, Field(ge=1)]
    left_padding: list[Annotated[int, Field(ge=0)]]
    boundaries: bool


def save_carry(carry: Carry, file: Path) -> None:
    """Write the carry; the file appears whole or not at all.

    Raises: UserMistake for a carry that holds no states.
    """
    if carry.tokens == 0 or not carry.records:
        raise UserMistake(
            "this carry holds no states to save", hint="save what a forward pass from model.start(records=True) returns"
        )
    numbers = _Numbers(tokens=carry.tokens, left_padding=list(carry.left_padding), boundaries=carry.boundaries)
    # Two modules behind one layer may hold the same tensor, which the format refuses.
    whole = torch.contiguous_format
    tensors = {name: value.detach().cpu().clone(memory_format=whole) for name, value in _tensors(carry).items()}
    incoming = file.with_name(f"{file.name}.incoming")
    save_file(tensors, incoming, metadata={_ENTRY: numbers.model_dump_json()})
    with incoming.open("rb") as written:
        os.fsync(written.fileno())
    incoming.replace(file)


def load_carry(model: DreamLM, file: Path) -> Carry:
    """The carry of a file, on the device of a model of the same configuration.

    Raises: CheckpointError when the file is missing, damaged or no carry; ResumeMismatch when it is the carry of
    another kind of model, or of another precision than the model's here: a carry that was made under autocast is
    loaded under autocast.
    Cost: one token through the model, to see what its states look like, beside the reading.
    """
    numbers, tensors = _read(file, model.device)
    like = _after_one_token(model)
    _require_fit(_tensors(like), tensors, numbers, file)
    return Carry(
        tokens=numbers.tokens,
        left_padding=tuple(numbers.left_padding),
        boundaries=numbers.boundaries,
        documents_BP=tensors["documents"],
        last_document_B=tensors["last_document"],
        next_position_B=tensors["next_position"],
        states={name: _state(isinstance(like.states[name], ModuleState), name, tensors) for name in like.states},
    )


def _tensors(carry: Carry) -> dict[str, Tensor]:
    tensors = {"documents": carry.documents_BP, "last_document": carry.last_document_B}
    tensors["next_position"] = carry.next_position_B
    for name, state in carry.states.items():
        tensors |= {f"{name}/{key}": value for key, value in _tensors_of(state).items()}
    return tensors


def _tensors_of(state: KeyValueCache | ModuleState) -> dict[str, Tensor]:
    if isinstance(state, KeyValueCache):
        return {"key": state.key, "value": state.value}
    waiting = {"pending": state.pending_BSD, "pending_documents": state.pending_documents_BS}
    memory = {f"{_MEMORY}{key}": value for key, value in state.memory.items()}
    for key, ring in state.stacks.items():
        memory |= {f"{_STACK}{key}": ring.ordered(), f"{_COUNT}{key}": ring.count_B}
    return {"document": state.document_B, **waiting, **memory}


def _state(of_module: bool, name: str, tensors: Mapping[str, Tensor]) -> KeyValueCache | ModuleState:
    own = {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}
    if not of_module:
        return KeyValueCache.of(own["key"], own["value"])
    memory = _under(_MEMORY, own)
    counts = _under(_COUNT, own)
    stacks = {key: Ring.of(newest, counts[key]) for key, newest in _under(_STACK, own).items()}
    written = bool((own["document"] != NOBODY).any())
    return ModuleState(memory, own["document"], written, own["pending"], own["pending_documents"], stacks)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _read(file: Path, device: torch.device) -> tuple[_Numbers, dict[str, Tensor]]:
    try:
        with safe_open(file, framework="pt", device=str(device)) as opened:
            numbers = _Numbers.model_validate_json((opened.metadata() or {})[_ENTRY])
            return numbers, {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise CheckpointError("there is no such file", where=str(file)) from error
    except (SafetensorError, KeyError, ValidationError) as error:
        raise CheckpointError("this file is damaged, or no carry", where=str(file)) from error


def _after_one_token(model: DreamLM) -> Carry:
    """Of one row. Some parts decide only when they run what their states look like."""
    token = torch.zeros(1, 1, dtype=torch.int64, device=model.device)
    with inference(model):
        carry: Carry = model(token, torch.zeros_like(token), model.start(1)).carry
    return carry


def _require_fit(like: Mapping[str, Tensor], tensors: Mapping[str, Tensor], numbers: _Numbers, file: Path) -> None:
    """Raises: ResumeMismatch, naming the first tensor that the model's own carry would not have so."""
    if odd := sorted(like.keys() ^ tensors.keys()):
        whose = "the carry" if odd[0] in tensors else "the model"
        raise ResumeMismatch(f"only {whose} has {odd[0]}", where=str(file), valid=sorted(like))
    rows = len(tensors["documents"])
    for name, value in tensors.items():
        shapes = _shapes(name.rpartition("/")[2], list(like[name].shape), rows, numbers.tokens)
        floats = value.is_floating_point() or like[name].is_floating_point()
        if list(value.shape) not in shapes or (floats and value.dtype != like[name].dtype):
            raise ResumeMismatch(
                f"{name} of the carry is {str(value.dtype).removeprefix('torch.')} {list(value.shape)}",
                where=str(file),
                valid=[f"{str(like[name].dtype).removeprefix('torch.')} {shape}" for shape in shapes],
            )


def _shapes(key: str, one_row: Sequence[int], rows: int, tokens: int) -> list[list[int]]:
    """What the shape of a tensor may be, given that after one token of one row."""
    shape = [rows, *one_row[1:]]
    if key in _LENGTH_AT:
        shape[_LENGTH_AT[key]] = tokens
    return [shape, [rows, 0, *shape[2:]]] if key in _MAY_BE_EMPTY else [shape]

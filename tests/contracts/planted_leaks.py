"""Ways in which a denoising pass could see what is hidden, to be put in the place of what is sound.

Shapes: B rows, N slots of a row, P clean tokens read before.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.denoising import denoise
from dreamlm.core.nn.signal import Signal
from dreamlm.core.nn.slots import Slots
from dreamlm.core.nn.visibility import Visibility
from dreamlm.core.objectives import diffusion
from dreamlm.core.objectives.blocks import Blocks

SOUND_VISIBLE, SOUND_SLOTS = Slots.visible, Blocks.slots


def remembering_its_own_segment(model: DreamLM, blocks: Blocks, masked_BN: Tensor, clean: Sequence[Signal]) -> Signal:
    """Slots read the memory that their segment leaves, not the one that it found."""
    behind = [signal.carry for signal in clean]
    return denoise(model, blocks.slots(masked_BN, model.mask_id), clean[-1].carry, behind)


def seeing_clean_tokens_of_its_block(slots: Slots, seen_BP: Tensor) -> Visibility:
    """The first two."""
    return SOUND_VISIBLE(replace(slots, begin_BN=slots.begin_BN + 2), seen_BP)


def hiding_one_token_less(blocks: Blocks, masked_BN: Tensor, mask_id: int) -> Slots:
    """The one in the second slot of the row is shown."""
    masked_BN = masked_BN.clone()
    masked_BN[:, 1] = False
    return SOUND_SLOTS(blocks, masked_BN, mask_id)


LEAKS: Sequence[tuple[str, Any, str, Callable[..., Any]]] = (
    ("segment_summary in block_diffusion", diffusion, "fill_in", remembering_its_own_segment),
    ("thought_stack in block_diffusion", diffusion, "fill_in", remembering_its_own_segment),
    ("diffusion=block_diffusion.block_size=4", Slots, "visible", seeing_clean_tokens_of_its_block),
    ("diffusion=block_diffusion.block_size=4", Blocks, "slots", hiding_one_token_less),
)
"""The case in which it is planted, what is replaced, and by what."""

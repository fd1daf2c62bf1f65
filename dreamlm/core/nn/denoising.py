"""The denoising pass: what a diffusion model makes of a block in which some tokens are hidden.

The clean text goes through the decoder as in any causal model and leaves its states in carries. Slots then go through
the same layers beside it: they see the clean text before their block, and every slot of their block, ahead too. A
slot holds a token or a mask, and the vector that comes out predicts the token behind it, as in a causal model: with
blocks of one token the two passes are the same.

Source: Arriola et al. 2025, "Block Diffusion"; prediction of the next token instead of the token itself: Gong et al.
2025, "Scaling Diffusion Language Models via Adaptation from Autoregressive Models".  Departs: clean tokens of a
block see their past only, so that they are read, cached and written by modules as in a causal model.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from dreamlm.core.modules.recollection import Recollection
from dreamlm.core.nn.cache import KeyValueCache
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.phase import Phase
from dreamlm.core.nn.signal import Carry, Segment, Signal
from dreamlm.core.nn.slots import Slots


def denoise(model: DreamLM, slots: Slots, carry: Carry, moments: Sequence[Carry]) -> Signal:
    """Hidden vectors of the slots after the final norm; nothing is written to any carry.

    carry: behind all the clean text that any slot sees.
    moments: the carry before each segment, whose memories the segment's slots read; or only one, for all slots.
    Cost: O(N * (P + N)) in attention, for P clean tokens and N slots.
    """
    length = slots.tokens_BN.shape[1]
    segment = Segment(
        slots.documents_BN,
        slots.position_BN,
        slots.visible(carry.documents_BP),
        model.positions.place(slots.position_BN, model.compute_dtype()),
        Phase(0, length, length, ()),
    )
    moment_BN = slots.begin_BN // model.config.segment if len(moments) > 1 else torch.zeros_like(slots.begin_BN)

    def seen(name: str) -> Any:
        state = carry.states[name]
        if isinstance(state, KeyValueCache):
            return state.glimpse()
        return Recollection([moment.states[name] for moment in moments], moment_BN)

    states = {name: seen(name) for name in carry.states}
    hidden_BND = model.embed(slots.tokens_BN, slots.position_BN)
    signal = model.through(Signal(hidden_BND, segment, replace(carry, states=states, records=False)))
    return replace(signal, hidden=model.norm(signal.hidden), carry=carry)

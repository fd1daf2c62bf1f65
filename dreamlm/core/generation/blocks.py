"""How a diffusion model writes: block by block, each in a few steps of filling in.

    1. every row's text is cut where its last whole block ends; what lies before is read once, padded on the left so
       that the blocks of all rows begin together
    2. a step: all slots of the block are seen -> each open one proposes a token -> the surest proposals stay
    3. the block is full: its text goes out, rows that ended leave, the others read the block's tokens, and so on

Shapes: R rows still writing, N slots of a block, X open slots of all rows, V vocabulary.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from dreamlm.core.generation.draft import Draft
from dreamlm.core.generation.filling import OnBlocks
from dreamlm.core.generation.row import Row
from dreamlm.core.generation.sampler import Sampler
from dreamlm.core.generation.segments import Reader
from dreamlm.core.nn.denoising import denoise
from dreamlm.core.nn.signal import Carry
from dreamlm.core.nn.slots import Slots


@final
class BlockWriter:
    """Writes rows to their ends with a diffusion model.

    Source: filling in by confidence, Chang et al. 2022 (MaskGIT).
    """

    def __init__(
        self,
        reader: Reader,
        config: Sampler.Config,
        never: Sequence[int],
        end_id: int,
        filler_id: int,
        window: int,
    ) -> None:
        """never: tokens that no text holds.  filler_id: what stands behind a document's end, one of them.

        window: tokens that the model may see at once, its block among them.
        """
        model = reader.model
        assert model.config.diffusion is not None, "not a diffusion model"
        self._model, self._reader, self._config, self._window = model, reader, config, window
        self._end_id, self._filler_id = end_id, filler_id
        self._never = torch.tensor(never, device=model.device)
        self._size = model.config.block
        asked = config.denoising.steps or model.config.diffusion.num_diffusion_steps or self._size
        self._steps = min(asked, self._size)

    def write(self, rows: Sequence[Row], on_text: Callable[[int, str], None], on_blocks: OnBlocks) -> None:
        """Write all rows to their ends, a block of each at a time.

        on_blocks: called with the block of every row, before its first step and after each.
        """
        for row in rows:
            row.keep(min(len(row.tokens), self._window - self._size + 1))
        carry = self._read(rows)
        for number in itertools.count():
            for draft in self._filled(rows, carry, number, on_blocks):
                draft.finish(on_text)
            going = [place for place, row in enumerate(rows) if row.finish_reason is None]
            if not going:
                return
            rows = [rows[place] for place in going]
            if any([self._make_room(row) for row in rows]):
                carry = self._read(rows)
            else:
                carry = self._read_block(rows, carry.select(torch.tensor(going, device=self._model.device)))

    def _begin(self, row: Row) -> int:
        """Where in its context the block begins that a row writes now; at least the token there is known."""
        return (len(row.context) - 1) // self._size * self._size

    def _make_room(self, row: Row) -> bool:
        """Let the model see fewer tokens when the block would not fit into the window; whether that was so."""
        if self._begin(row) + self._size <= self._window:
            return False
        row.keep(max(1, min(self._window // 2, self._window - self._size + 1)))
        return True

    def _read(self, rows: Sequence[Row]) -> Carry:
        """The carry of everything before the rows' blocks."""
        contexts = [row.context[: self._begin(row)] for row in rows]
        length = max(map(len, contexts))
        padding = [length - len(ids) for ids in contexts]
        carry = self._model.start(len(rows), left_padding=padding)
        if length == 0:
            return carry
        tokens_RT = [[0] * before + ids for before, ids in zip(padding, contexts, strict=True)]
        documents_RT = [[-1] * before + [0] * len(ids) for before, ids in zip(padding, contexts, strict=True)]
        tokens, documents = (torch.tensor(values, device=self._model.device) for values in (tokens_RT, documents_RT))
        return self._reader.read(rows, tokens, documents, carry, boundaries=any(padding)).carry

    def _read_block(self, rows: Sequence[Row], carry: Carry) -> Carry:
        """The carry behind the block that was just written."""
        ends = [self._begin(row) for row in rows]
        tokens_RN = [row.context[end - self._size : end] for row, end in zip(rows, ends, strict=True)]
        tokens = torch.tensor(tokens_RN, device=self._model.device)
        return self._reader.read(rows, tokens, torch.zeros_like(tokens), carry, boundaries=False).carry

    def _filled(self, rows: Sequence[Row], carry: Carry, number: int, on_blocks: OnBlocks) -> list[Draft]:
        """The next block of every row, the one of that number."""
        ngram = self._config.no_repeat_ngram
        drafts = [Draft(row, row.context[self._begin(row) :], self._size, ngram) for row in rows]
        on_blocks([draft.view(number, 0, self._steps) for draft in drafts])
        for step in range(self._steps):
            if any(draft.open for draft in drafts):
                hidden_RND = denoise(self._model, self._slots(drafts, carry), carry, [carry]).hidden
                self._fill(drafts, hidden_RND, step)
                on_blocks([draft.view(number, step + 1, self._steps) for draft in drafts])
        return drafts

    def _slots(self, drafts: Sequence[Draft], carry: Carry) -> Slots:
        device = self._model.device
        tokens_RN = torch.tensor([draft.seen(self._model.mask_id) for draft in drafts], device=device)
        padding_R = torch.tensor(carry.left_padding or (0,) * len(drafts), device=device)
        column_N = torch.arange(carry.tokens, carry.tokens + self._size, device=device)
        begin_RN = torch.full_like(tokens_RN, carry.tokens)
        return Slots(tokens_RN, torch.zeros_like(tokens_RN), column_N - padding_R[:, None], begin_RN)

    def _fill(self, drafts: Sequence[Draft], hidden_RND: Float[Tensor, "R N D"], step: int) -> None:
        """One step: of what is proposed for the open slots, the surest stays."""
        asked = [(draft, slot) for draft in drafts for slot in draft.open]
        places = [(row, slot) for row, draft in enumerate(drafts) for slot in draft.open]
        row_X, slot_X = torch.tensor(places, device=hidden_RND.device).T
        logits_XV = self._model.logits(hidden_RND[row_X, slot_X])
        log_probability_XV = logits_XV.log_softmax(dim=-1)
        allowed_XV = self._allowed(asked, logits_XV)
        sampler = self._cooled(step).build()
        uniform_X = torch.cat([draft.row.uniforms(len(draft.open)) for draft in drafts]).to(hidden_RND.device)
        chosen_X = sampler.choose(allowed_XV, uniform_X)
        found_X = log_probability_XV.gather(1, chosen_X[:, None])[:, 0].tolist()
        chosen, sure_X, begin = chosen_X.tolist(), self._sureness(allowed_XV).tolist(), 0
        for draft in drafts:
            quota = self._quota(draft, step)
            mine = sorted(enumerate(draft.open, start=begin), key=lambda one: float(sure_X[one[0]]), reverse=True)
            begin += len(mine)
            for place, slot in mine[:quota]:
                if slot not in draft.open:  # behind an end that was decided in this very step
                    continue
                token, log_probability = chosen[place], found_X[place]
                # What was decided in this very step may have made the proposal a repetition.
                if token != self._end_id and draft.repeats(slot, token):
                    token = self._another(sampler, draft, slot, allowed_XV[place], uniform_X[place])
                    log_probability = log_probability_XV[place, token].item()
                draft.put(slot, token, log_probability)
                if token == self._end_id:
                    draft.end_at(slot, self._filler_id)

    def _allowed(self, asked: Sequence[tuple[Draft, int]], logits_XV: Float[Tensor, "X V"]) -> Float[Tensor, "X V"]:
        """The logits, minus infinity where a token may not come; a slot in which nothing is left drops its blocks."""
        allowed_XV = logits_XV.index_fill(1, self._never, -torch.inf)
        early_X = [draft.is_early(slot, self._config.min_new_tokens) for draft, slot in asked]
        allowed_XV[:, self._end_id].masked_fill_(torch.tensor(early_X, device=logits_XV.device), -torch.inf)
        for place, (draft, slot) in enumerate(asked):
            if blocked := draft.blocked(slot) - {self._end_id}:
                barred = torch.tensor([*blocked], device=logits_XV.device)
                rest_V = allowed_XV[place].index_fill(0, barred, -torch.inf)
                if not rest_V.isneginf().all():
                    allowed_XV[place] = rest_V
        return allowed_XV

    def _quota(self, draft: Draft, step: int) -> int:
        """How many slots to decide, so that the open ones are spread evenly over the steps; one at least."""
        return max(1, len(draft.open) - left_open(draft.asked, step, self._steps))

    def _cooled(self, step: int) -> Sampler.Config:
        share = step / (self._steps - 1) if self._steps > 1 else 0.0
        factor = 1 + share * (self._config.denoising.final_temperature - 1)
        return self._config.model_copy(update={"temperature": self._config.temperature * factor})

    def _sureness(self, allowed_XV: Float[Tensor, "X V"]) -> Float[Tensor, " X"]:
        """Of what may come: it matters little how sure the model is of a token that must not."""
        probability_XV = allowed_XV.softmax(dim=-1)
        if self._config.denoising.confidence == "probability":
            return probability_XV.amax(dim=-1)
        sure_X: Tensor = -torch.special.entr(probability_XV).sum(dim=-1)
        return sure_X

    def _another(
        self, sampler: Sampler, draft: Draft, slot: int, allowed_V: Float[Tensor, " V"], uniform: Float[Tensor, ""]
    ) -> int:
        """A token that repeats no n-gram, by the same random number; the end of the document is never one that does.

        Where nothing is left, blocking is lifted for this token.
        """
        barred_V = allowed_V.clone()
        while not barred_V.isneginf().all():
            token = int(sampler.choose(barred_V[None], uniform[None]).item())
            if token == self._end_id or not draft.repeats(slot, token):
                return token
            barred_V[token] = -torch.inf
        return int(sampler.choose(allowed_V[None], uniform[None]).item())


def left_open(asked: int, step: int, steps: int) -> int:
    """How many of the slots asked for are open behind a step, counted from 0; no step decides two more than another."""
    return asked * (steps - step - 1) // steps

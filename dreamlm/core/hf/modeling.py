"""dreamlm's decoder behind the interface of transformers' causal language models.

The wrapper owns no weight and computes nothing of its own: its children are the decoder's, under the decoder's names,
so that a snapshot's model.safetensors is the weight file of both.

Shapes: B rows, T new tokens, P tokens read before, V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, final

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel

from dreamlm.core.errors import CheckpointError, RangeError, UserMistake
from dreamlm.core.hf.cache import CarryCache, no_assistants
from dreamlm.core.hf.configuration import DreamLMConfig
from dreamlm.core.hf.inputs import NO_TARGET, checked
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.diffusion import require_causal
from dreamlm.core.nn.signal import Carry

_KNOWN = ("cache_position", "num_items_in_batch", "tokenizer")
"""Options of transformers that say what the cache knows as well, by what a loss is divided, and what `stop_strings` are
made of: `generate` hands it on.
"""


@final
class DreamLMForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """A dreamlm decoder for `AutoModelForCausalLM`, with dreamlm's logits and its carry as the cache.

    Each row is one document. It should begin with the end-of-document token, as in training; the tokenizer of a
    snapshot puts it there.  Departs from dreamlm's own generation: text longer than `seq_length` does not slide.
    """

    config_class = DreamLMConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    _tied_weights_keys: ClassVar[dict[str, str]] = {"head.weight": "embedding.weight"}
    _supports_sdpa = True

    def __init__(self, config: DreamLMConfig) -> None:
        super().__init__(config)
        # transformers builds on the meta device; constants that are no parameters would never come back from there.
        own = config.decoder_config()
        require_causal(own.diffusion, "a causal language model of transformers")
        with torch.device("cpu"):
            decoder = own.build(config.vocab_size)
        for name, child in decoder.named_children():
            self.add_module(name, child)
        for name, parameter in decoder.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        # Not a child: its children are ours.
        object.__setattr__(self, "_decoder", decoder)
        self._complete = False
        self.post_init()
        self._complete = True

    @property
    def decoder(self) -> DreamLM:
        """The model that dreamlm itself would have loaded; the weights are shared."""
        decoder: DreamLM = self._decoder
        # transformers puts another parameter in its place when it loads a file, and adapters another child.
        for name, own in (*self.named_parameters(recurse=False), *self.named_children()):
            if getattr(decoder, name) is not own:
                setattr(decoder, name, own)
        return decoder

    def get_input_embeddings(self) -> nn.Module:
        return self.decoder.embedding

    def get_output_embeddings(self) -> nn.Module:
        return self.decoder.head

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, *given: Any, **options: Any
    ) -> nn.Module:
        """The embedding as it is.  Raises: UserMistake for another number of tokens than the model knows."""
        known = self.config.vocab_size
        if new_num_tokens in (None, known) and known % (pad_to_multiple_of or 1) == 0:
            return self.get_input_embeddings()
        raise UserMistake(
            "a dreamlm model keeps the tokens that it was trained with",
            where="resize_token_embeddings",
            hint="export a plain decoder by `dreamlm ckpt export`, and resize the stock model",
        )

    def forward(
        self,
        input_ids: Int[Tensor, "B T"] | None = None,
        attention_mask: Int[Tensor, "B P+T"] | None = None,
        past_key_values: CarryCache | None = None,
        labels: Int[Tensor, "B T"] | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        inputs_embeds: Tensor | None = None,
        return_dict: bool | None = None,
        **options: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Logits (B, T, V) in fp32, the loss when there are labels, and the cache unless `use_cache` is False.

        attention_mask: 0 is padding, on the left or the right.  A cache that is passed is filled, whatever `use_cache`
        says; that is about the one that is given back.  labels: -100 is no target, nor is padding or what follows it;
        the loss is the mean cross-entropy of tokens, without what layers add to it in dreamlm's own training.
        Raises: UserMistake for vectors instead of tokens, inputs of another form, a foreign cache, an option that
        would have no effect, such as `position_ids` and `output_attentions`, or padding inside a text where there are
        modules; RangeError past the last position, and for ids that no token has.
        """
        if inputs_embeds is not None:
            raise UserMistake("a dreamlm model reads token ids, not vectors", where="inputs_embeds")
        _require_known(options)
        cache = _own(past_key_values)
        tokens_BT = checked(input_ids, attention_mask, labels, cache.carry, self.config.vocab_size)
        documents_BT = _documents(tokens_BT, attention_mask)
        keeps = use_cache is not False or past_key_values is not None
        carry = _waited(cache.carry, documents_BT) if cache.carry else self._start(documents_BT, keeps)
        self._require_positions(carry.tokens + tokens_BT.shape[1])
        decoder = self.decoder
        boundaries = bool((documents_BT < 0).any())
        if decoder.config.modules and (boundaries or carry.boundaries):
            _require_texts_in_one(carry, documents_BT)
        signal = decoder(tokens_BT, documents_BT, carry, boundaries)
        cache.carry = signal.carry
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = decoder.logits(signal.hidden[:, kept])
        loss = None
        if labels is not None:
            targets_BT = _targets(labels, documents_BT)
            loss = self.loss_function(logits=logits, labels=targets_BT, vocab_size=self.config.vocab_size, **options)
        output = CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=None if use_cache is False else cache)
        return output.to_tuple() if return_dict is False else output

    def _start(self, documents_BT: Int[Tensor, "B T"], records: bool) -> Carry:
        return self.decoder.start(len(documents_BT), records, left_padding=_leading_padding(documents_BT))

    def _require_positions(self, length: int) -> None:
        most = self.decoder.max_positions
        if most is not None and length > most:
            raise RangeError(f"{length} tokens do not fit: the model has {most} positions", where="input_ids")

    def _init_weights(self, module: nn.Module) -> None:
        """The decoder has initialised itself; later calls are for what no file had a value for.

        Raises: CheckpointError naming the weights.
        """
        missing = [
            f"{prefix}.{name}"
            for prefix, part in self.named_modules()
            if part is module and self._complete
            for name, parameter in part.named_parameters(recurse=False)
            if not getattr(parameter, "_is_hf_initialized", False)
        ]
        if missing:
            raise CheckpointError(f"the weights lack {', '.join(missing)}", where=str(self.config.name_or_path))

    def get_correct_attn_implementation(self, requested_attention: str | None, is_init_check: bool = False) -> str:
        """`sdpa`, as which the decoder's attention goes.  Raises: UserMistake when another one is asked for."""
        if requested_attention not in (None, "sdpa"):
            raise UserMistake(
                f"attention cannot be {requested_attention}: a dreamlm model computes it in its own way",
                where="attn_implementation",
                valid=["sdpa"],
                hint="leave it out; model.attention_activation of a preset says what attention is",
            )
        return "sdpa"

    def _assisted_decoding(self, *given: Any, **options: Any) -> Any:
        """Raises: UserMistake; transformers would go back in the cache."""
        raise no_assistants()

    def _replicate_for_data_parallel(self) -> Any:
        """Raises: UserMistake; a copy on another device would compute with this one's constants."""
        raise UserMistake(
            "a dreamlm model is not copied to several devices within one process",
            where="torch.nn.DataParallel",
            hint="start one process for each device (torchrun, accelerate launch), or show this one a single device",
        )

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False


def _require_known(options: Mapping[str, Any]) -> None:
    unknown = [name for name, value in options.items() if not (value is None or value is False or name in _KNOWN)]
    if unknown:
        raise UserMistake(
            f"a dreamlm model does nothing with {', '.join(unknown)}",
            where="forward",
            hint="leave it out; positions follow from the attention mask, and hidden vectors come from model.decoder",
        )


def _own(cache: Any) -> CarryCache:
    if cache is None:
        return CarryCache()
    if not isinstance(cache, CarryCache):
        raise UserMistake(
            f"a dreamlm model cannot use a {type(cache).__name__}",
            where="past_key_values",
            hint="pass the cache that an earlier forward pass returned, or none",
        )
    return cache


def _leading_padding(documents_BT: Int[Tensor, "B T"]) -> list[int]:
    """Columns of padding before each row's first token, or all of them."""
    before_B: list[int] = ((documents_BT >= 0).cumsum(dim=1) == 0).sum(dim=1).tolist()
    return before_B


def _waited(carry: Carry, documents_BT: Int[Tensor, "B T"]) -> Carry:
    """The carry, with more padding on the left of rows that had nothing else until now."""
    waiting = [padding == carry.tokens for padding in carry.left_padding]
    if not any(waiting):
        return carry
    further = zip(carry.left_padding, waiting, _leading_padding(documents_BT), strict=True)
    return replace(carry, left_padding=tuple(before + more if waits else before for before, waits, more in further))


def _require_texts_in_one(carry: Carry, documents_BT: Int[Tensor, "B T"]) -> None:
    """A module reads segments of columns: padding inside a text would shift those of its row against the others'."""
    real_BS = torch.cat([carry.documents_BP, documents_BT], dim=1) >= 0
    resumes_BS = real_BS[:, 1:] & ~real_BS[:, :-1] & (real_BS.cumsum(dim=1)[:, :-1] > 0)
    if resumes_BS.any():
        raise UserMistake(
            "padding stands between two tokens of a text, and this model has modules that read it by segments",
            where="attention_mask",
            hint="pad on the left (padding_side='left'), or give each text its own pass",
        )


def _targets(labels_BT: Int[Tensor, "B T"], documents_BT: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """The labels without those of padding, and of tokens that padding would have to predict."""
    padding_BT = documents_BT < 0
    behind_BT = F.pad(padding_BT[:, :-1], (1, 0))
    return labels_BT.long().masked_fill(padding_BT | behind_BT, NO_TARGET)


def _documents(tokens_BT: Int[Tensor, "B T"], mask: Tensor | None) -> Int[Tensor, "B T"]:
    """Document 0 for real tokens, -1 for padding."""
    if mask is None:
        return torch.zeros_like(tokens_BT, dtype=torch.int32)
    return (mask[:, -tokens_BT.shape[1] :] != 0).to(torch.int32) - 1

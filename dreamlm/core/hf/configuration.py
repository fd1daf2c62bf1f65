"""`config.json` of a snapshot as a configuration of transformers."""

from typing import TYPE_CHECKING, Any, ClassVar, final

from transformers.configuration_utils import PreTrainedConfig

if TYPE_CHECKING:
    from dreamlm.core.nn.decoder import DreamLM


@final
class DreamLMConfig(PreTrainedConfig):  # type: ignore[misc]
    """The decoder's own configuration, key by key, beside the vocabulary's facts.

    Keys may have transformers' names as well; those not given have the decoder's defaults.
    Raises: pydantic's ValidationError for a bad value.
    """

    model_type: ClassVar[str] = "dreamlm"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]
    attribute_map: ClassVar[dict[str, str]] = {
        "max_position_embeddings": "seq_length",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
        "num_key_value_heads": "num_kv_heads",
        "tie_word_embeddings": "tie_embeddings",
    }

    vocab_size: int = 8192
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **keys: Any) -> None:
        from dreamlm.core.nn.decoder import DreamLM  # over a second of import time, which a tokenizer does not need

        keys = {self.attribute_map.get(name, name): value for name, value in keys.items()}
        own = {name: keys.pop(name) for name in DreamLM.Config.model_fields if name in keys}
        decoder = DreamLM.Config.model_validate(own)
        for name, value in decoder.model_dump(mode="json").items():
            setattr(self, name, value)
        self.num_kv_heads = decoder.kv_heads  # of which tools of transformers expect a number
        super().__post_init__(**keys)

    def decoder_config(self) -> "DreamLM.Config":
        """What builds the decoder."""
        from dreamlm.core.nn.decoder import DreamLM

        return DreamLM.Config.model_validate({name: getattr(self, name) for name in DreamLM.Config.model_fields})

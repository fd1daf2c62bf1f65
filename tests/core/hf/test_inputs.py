"""Inputs that are no tokens, masks, labels or caches of this call are told as such, and nothing is made of them."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dreamlm.core.errors import RangeError, UserMistake
from dreamlm.core.hf.configuration import DreamLMConfig
from dreamlm.core.hf.modeling import DreamLMForCausalLM

VOCAB = 50
IDS = torch.tensor([[0, 4, 9], [7, 49, 1]])


@pytest.fixture(scope="module")
def model() -> DreamLMForCausalLM:
    sizes = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "seq_length": 16}
    return DreamLMForCausalLM(DreamLMConfig(vocab_size=VOCAB, **sizes)).eval()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "there are no token ids to read"),
        ({"input_ids": IDS[0]}, "input_ids must be a tensor of rows of integers, and not 3"),
        ({"input_ids": IDS.tolist()}, "input_ids must be a tensor of rows of integers, and not a list"),
        ({"input_ids": IDS.float()}, "input_ids must be a tensor of rows of integers, and not 2x3 of float32"),
        ({"input_ids": IDS > 4}, "input_ids must be a tensor of rows of integers, and not 2x3 of bool"),
        ({"input_ids": IDS[:, :0]}, "input_ids must be a tensor of rows of integers, and not 2x0"),
        ({"input_ids": IDS[:0]}, "input_ids must be a tensor of rows of integers, and not 0x3"),
        ({"attention_mask": torch.ones(1, 3)}, "the attention mask is 1x3, for tokens 2x3"),
        ({"attention_mask": torch.ones(3, 3)}, "the attention mask is 3x3, for tokens 2x3"),
        ({"attention_mask": torch.ones(2, 2)}, "the attention mask is 2x2, for tokens 2x3"),
        ({"attention_mask": torch.ones(2, 4)}, "the attention mask is 2x4, for tokens 2x3"),
        ({"attention_mask": torch.ones(2, 1, 3, 3)}, "the attention mask is 2x1x3x3, for tokens 2x3"),
        ({"attention_mask": [[1, 1, 1]]}, "the attention mask is a list, for tokens 2x3"),
        ({"labels": IDS[:, :2]}, "the labels are 2x2, for tokens 2x3"),
        ({"labels": IDS.float()}, "labels must be a tensor of rows of integers, and not 2x3 of float32"),
    ],
    ids=lambda one: one if isinstance(one, str) else ",".join(one),
)
def test_another_form_is_told(model: DreamLMForCausalLM, inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(UserMistake) as found:
        model(**({"input_ids": IDS} if inputs and "input_ids" not in inputs else {}), **inputs)
    assert (found.value.what, found.value.where) == (message, next(iter(inputs), "input_ids"))
    assert found.value.hint


def with_one(unknown: int) -> Tensor:
    ids = IDS.clone()
    ids[1, 1] = unknown
    return ids


@pytest.mark.parametrize("unknown", [-101, -1, VOCAB])
def test_a_number_that_no_token_has_is_told_among_tokens_and_labels(model: DreamLMForCausalLM, unknown: int) -> None:
    for name, given in (("input_ids", {}), ("labels", {"input_ids": IDS})):
        with pytest.raises(RangeError, match=f"^{unknown} is no token: the vocabulary has {VOCAB}\nat: {name}\n"):
            model(**given, **{name: with_one(unknown)})
    with pytest.raises(RangeError, match=r"^-100 is no token"):
        model(with_one(-100))


def test_what_is_no_target_is_no_mistake_among_labels_of_any_integers(model: DreamLMForCausalLM) -> None:
    labels = with_one(-100)
    assert torch.equal(model(IDS, labels=labels.int()).loss, model(IDS, labels=labels).loss)
    assert not torch.equal(model(IDS, labels=IDS).loss, model(IDS, labels=labels).loss)


def test_a_cache_of_other_rows_is_told_and_masks_may_reach_back_as_far_as_it_does(model: DreamLMForCausalLM) -> None:
    cache = model(IDS).past_key_values
    with pytest.raises(UserMistake, match="the cache has 2 rows, and the tokens have 1"):
        model(IDS[:1], past_key_values=cache)
    with pytest.raises(UserMistake, match="the attention mask is 2x7, for tokens 2x3"):
        model(IDS, attention_mask=torch.ones(2, 7), past_key_values=cache)
    assert cache.get_seq_length() == 3
    model(IDS, attention_mask=torch.ones(2, 6), past_key_values=cache)
    assert cache.get_seq_length() == 6

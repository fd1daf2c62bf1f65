"""A snapshot folder in the hands of transformers: the same numbers, the same texts."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from dreamlm.core.errors import CheckpointError, RangeError, UserMistake
from dreamlm.core.generation.generate import generate
from dreamlm.core.generation.sampler import Sampler
from dreamlm.core.hf.cache import CarryCache
from dreamlm.core.hf.configuration import DreamLMConfig
from dreamlm.core.hf.modeling import DreamLMForCausalLM
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.signal import Carry
from dreamlm.core.objectives.causal import CausalObjective
from dreamlm.core.tokenizer import Tokenizer

SnapshotOf = Callable[[DreamLM], Path]
PROMPTS = ["the cat", "the sea saw the mat and", "a", ""]
SUMMARY = {"segment_length": 8, "modules": [{"type": "segment_summary"}]}
ALIBI = {"positions": "alibi", "num_heads": 12, "hidden_size": 96}
"""With slopes that half precision would round: 12 is no power of two."""
YARN = {"type": "yarn", "factor": 4, "original_length": 16}
DREAMS = {"num_dream_sequences": 2, "dream_length": 2, "num_experts": 3, "expert_num_layers": 1, "expert_num_heads": 4}
DREAMING = {"segment_length": 8, "modules": [{"type": "dreaming", "graph_num_heads": 2, **DREAMS}]}

STACK = {"type": "thought_stack", "thought_dims": (2, 3, 2), "stack_size": 2}
THOUGHTS = {"segment_length": 8, "modules": [STACK]}


def build(**settings: Any) -> DreamLM:
    """An untrained model whose choices are far from uniform."""
    torch.manual_seed(5)
    sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "seq_length": 64}
    model = DreamLM.Config.model_validate(sizes | settings).build(300).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.ndim == 2 else 1)
    return model


def peer_of(folder: Path, **options: Any) -> DreamLMForCausalLM:
    peer = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False, **options)
    assert isinstance(peer, DreamLMForCausalLM)
    return peer


def logits_of(model: DreamLM, tokens: Tensor, documents: Tensor, padding: list[int]) -> Tensor:
    carry = model.start(len(tokens), left_padding=padding)
    return model.logits(model(tokens, documents, carry).hidden)


def random_tokens(rows: int, length: int) -> Tensor:
    return torch.randint(0, 300, (rows, length), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"tie_embeddings": False},
        {"positions": "learned", "norm": "layernorm", "feed_forward": "gelu"},
        SUMMARY,
        {"mask_vector": True},
        {"attention_gate": True},
        {"positions": "alibi"},
        {"positions": {"scaling": YARN}},
        {"positions": {"scaling": {**YARN, "layers": [1]}, "scaling_elsewhere": [{"type": "linear", "factor": 2}]}},
        {"attention_activation": "sparsemax"},
        {"feed_forward": {"type": "moe", "num_experts": 3}},
        DREAMING,
        THOUGHTS,
    ],
    ids=str,
)
@torch.no_grad()
def test_transformers_computes_dreamlms_logits_bit_for_bit(snapshot_of: SnapshotOf, settings: dict[str, Any]) -> None:
    model = build(**settings)
    tokens = random_tokens(3, 20)
    assert torch.equal(
        peer_of(snapshot_of(model))(tokens).logits, logits_of(model, tokens, torch.zeros_like(tokens), [])
    )


def test_a_mask_vector_goes_through_transformers_and_back(snapshot_of: SnapshotOf, tmp_path: Path) -> None:
    model = build(mask_vector=True)
    assert model.mask_vector is not None
    peer = peer_of(snapshot_of(model))
    assert torch.equal(peer.decoder.mask_vector, model.mask_vector)
    peer.save_pretrained(tmp_path / "saved")
    assert torch.equal(load_file(tmp_path / "saved" / "model.safetensors")["mask_vector"], model.mask_vector)
    assert torch.equal(peer_of(tmp_path / "saved").decoder.mask_vector, model.mask_vector)


@pytest.mark.parametrize("settings", [{}, SUMMARY, DREAMING], ids=["plain", "module", "dreaming"])
@torch.no_grad()
def test_padding_on_the_left_changes_no_row(snapshot_of: SnapshotOf, settings: dict[str, Any]) -> None:
    model = build(**settings)
    peer = peer_of(snapshot_of(model))
    tokens, padding = random_tokens(3, 20), [0, 3, 11]
    mask = torch.stack([(torch.arange(20) >= columns).long() for columns in padding])
    together = peer(tokens, attention_mask=mask).logits
    assert torch.equal(together, logits_of(model, tokens, mask - 1, padding))
    for row, columns in enumerate(padding):
        alone = peer(tokens[row : row + 1, columns:]).logits
        torch.testing.assert_close(together[row : row + 1, columns:], alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_padding_on_the_right_changes_no_row(snapshot_of: SnapshotOf) -> None:
    peer = peer_of(snapshot_of(build()))
    tokens = random_tokens(2, 20)
    mask = torch.stack([(torch.arange(20) < length).long() for length in (20, 7)])
    torch.testing.assert_close(
        peer(tokens, attention_mask=mask).logits[1:, :7], peer(tokens[1:, :7]).logits, atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("settings", [{}, SUMMARY], ids=["plain", "module"])
@pytest.mark.parametrize("use_cache", [True, False], ids=["cached", "uncached"])
def test_greedy_texts_of_a_padded_batch_are_dreamlms_own(
    snapshot_of: SnapshotOf, tokenizer: Tokenizer, settings: dict[str, Any], use_cache: bool
) -> None:
    model = build(**settings)
    folder = snapshot_of(model)
    config = Sampler.Config(greedy=True, max_new_tokens=24)
    own = [one.token_ids for one in generate(model, tokenizer, PROMPTS, config)]
    batch = AutoTokenizer.from_pretrained(folder)(PROMPTS, padding=True, return_tensors="pt")
    written = peer_of(folder).generate(**batch, max_new_tokens=24, do_sample=False, use_cache=use_cache)
    special = {tokenizer.end_of_document_id, tokenizer.padding_id}
    new = written[:, batch["input_ids"].shape[1] :].tolist()
    assert [tuple(token for token in row if token not in special) for row in new] == own
    assert len(set(own)) == len(PROMPTS)


def test_a_text_may_end_with_strings(snapshot_of: SnapshotOf, tokenizer: Tokenizer) -> None:
    folder = snapshot_of(build())
    stock, opening = AutoTokenizer.from_pretrained(folder), torch.tensor([[tokenizer.end_of_document_id]])
    torch.manual_seed(0)
    written = peer_of(folder).generate(
        opening, max_new_tokens=60, do_sample=True, stop_strings=["e", "a"], tokenizer=stock
    )
    before, last = (stock.decode(ids, skip_special_tokens=True) for ids in (written[0, :-1], written[0, -1:]))
    assert 1 < written.shape[1] < 61
    assert set("ea").isdisjoint(before)
    assert not set("ea").isdisjoint(last)


def test_without_a_cache_no_layer_keeps_its_keys(snapshot_of: SnapshotOf, monkeypatch: pytest.MonkeyPatch) -> None:
    peer, seen = peer_of(snapshot_of(build())), []
    start = DreamLM.start

    def watched(model: DreamLM, *given: Any, **options: Any) -> Carry:
        seen.append(start(model, *given, **options))
        return seen[-1]

    monkeypatch.setattr(DreamLM, "start", watched)
    tokens = random_tokens(2, 9)
    assert torch.equal(peer(tokens, use_cache=False).logits, peer(tokens).logits)
    assert [carry.records for carry in seen] == [False, True]


def test_padding_is_never_written(snapshot_of: SnapshotOf, tokenizer: Tokenizer) -> None:
    model = build(tie_embeddings=False)
    with torch.no_grad():
        model.head.weight[tokenizer.padding_id] = 50 * model.head.weight[5]
    peer = peer_of(snapshot_of(model))
    opening = torch.tensor([[tokenizer.end_of_document_id]])
    torch.manual_seed(0)
    written = peer.generate(opening, max_new_tokens=30, min_new_tokens=30, do_sample=True)
    assert tokenizer.padding_id not in written.flatten().tolist()


@pytest.mark.parametrize(
    "options",
    [{"num_beams": 3}, {"do_sample": True, "num_return_sequences": 3}],
    ids=["beams", "samples"],
)
def test_other_ways_to_generate_do_not_depend_on_the_cache(snapshot_of: SnapshotOf, options: dict[str, Any]) -> None:
    folder = snapshot_of(build())
    batch = AutoTokenizer.from_pretrained(folder)(PROMPTS, padding=True, return_tensors="pt")
    texts = []
    for use_cache in (True, False):
        torch.manual_seed(0)
        texts.append(peer_of(folder).generate(**batch, max_new_tokens=12, use_cache=use_cache, **options))
    assert torch.equal(*texts)


@torch.no_grad()
def test_a_cache_goes_on_where_it_stopped_and_follows_its_rows(snapshot_of: SnapshotOf) -> None:
    peer = peer_of(snapshot_of(build()))
    tokens = random_tokens(2, 12)
    whole = peer(tokens).logits
    first = peer(tokens[:, :7])
    assert first.past_key_values.get_seq_length() == 7
    second = peer(tokens[:, 7:], past_key_values=first.past_key_values)
    assert second.past_key_values is first.past_key_values
    torch.testing.assert_close(torch.cat([first.logits, second.logits], 1), whole, atol=1e-5, rtol=1e-5)
    turned = peer(tokens[:, :7]).past_key_values
    turned.reorder_cache(torch.tensor([1, 0]))
    turned.batch_repeat_interleave(2)
    assert turned.batch_size == 4
    again = peer(tokens[[1, 1, 0, 0], 7:], past_key_values=turned).logits
    torch.testing.assert_close(again, whole[[1, 1, 0, 0], 7:], atol=1e-5, rtol=1e-5)


def test_labels_give_the_mean_loss_of_real_targets_and_gradients(snapshot_of: SnapshotOf) -> None:
    model = build()
    peer = peer_of(snapshot_of(model)).train()
    tokens = random_tokens(2, 20)
    labels = tokens.clone()
    labels[1, :9] = -100
    output = peer(tokens, labels=labels)
    expected = F.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(output.loss, expected)
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in peer.parameters())
    documents = torch.zeros_like(tokens)
    own = CausalObjective(model, 0.0)(tokens, documents, boundaries=False)
    torch.testing.assert_close(peer(tokens, labels=tokens).loss, own.nll / own.tokens)


@pytest.mark.parametrize("padding", [slice(0, 3), slice(9, 12)], ids=["left", "right"])
def test_padding_is_neither_a_target_nor_what_a_token_is_predicted_from(
    snapshot_of: SnapshotOf, padding: slice
) -> None:
    peer, tokens = peer_of(snapshot_of(build())), random_tokens(2, 12)
    mask = torch.ones_like(tokens)
    mask[1, padding] = 0
    together = peer(tokens, attention_mask=mask, labels=tokens).loss
    apart = [peer(row[real > 0][None], labels=row[real > 0][None]).loss for row, real in zip(tokens, mask, strict=True)]
    torch.testing.assert_close(together, (11 * apart[0] + 8 * apart[1]) / 19)


@pytest.mark.parametrize("settings", [SUMMARY, THOUGHTS], ids=["module", "thoughts"])
@torch.no_grad()
def test_padding_inside_a_text_is_refused_where_modules_would_read_it_as_a_part(
    snapshot_of: SnapshotOf, settings: dict[str, Any]
) -> None:
    peer, tokens = peer_of(snapshot_of(build(**settings))), random_tokens(2, 12)
    hole, right = torch.ones(2, 12, dtype=torch.int64), torch.ones(2, 12, dtype=torch.int64)
    hole[1, 4:6], right[1, 9:] = 0, 0
    with pytest.raises(UserMistake, match="padding stands between two tokens of a text"):
        peer(tokens, attention_mask=hole)
    cache = peer(tokens, attention_mask=right).past_key_values
    with pytest.raises(UserMistake, match="padding stands between two tokens of a text"):
        peer(tokens[:, :1], past_key_values=cache)


@pytest.mark.parametrize("name", ["embedding", "norm", "head", "layers.0.feed_forward.down"])
def test_a_part_that_an_adapter_replaces_is_the_one_that_computes(snapshot_of: SnapshotOf, name: str) -> None:
    peer, tokens = peer_of(snapshot_of(build(tie_embeddings=False))), random_tokens(2, 12)
    before = peer(tokens).logits
    part = copy.deepcopy(peer.get_submodule(name))
    peer.set_submodule(name, part)
    with torch.no_grad():
        part.weight += torch.linspace(0, 1, len(part.weight)).view(-1, *[1] * (part.weight.ndim - 1))
    loss = peer(tokens, labels=tokens).loss
    loss.backward()
    assert part.weight.grad is not None
    assert not torch.allclose(peer(tokens).logits, before, atol=1e-2)


@torch.no_grad()
def test_a_layer_that_is_exchanged_or_left_out_is_so_in_what_is_computed(snapshot_of: SnapshotOf) -> None:
    peer, tokens = peer_of(snapshot_of(build())), random_tokens(2, 12)
    first, second = peer.layers
    before = peer(tokens).logits
    peer.layers = torch.nn.ModuleList([first])
    alone = peer(tokens).logits
    peer.layers = torch.nn.ModuleList([first, second])
    assert not torch.allclose(alone, before)
    assert torch.equal(peer(tokens).logits, before)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@torch.no_grad()
def test_what_transformers_saves_it_loads_and_has_dreamlms_names(
    snapshot_of: SnapshotOf, tmp_path: Path, tied: bool
) -> None:
    model = build(tie_embeddings=tied)
    peer = peer_of(snapshot_of(model))
    peer.save_pretrained(tmp_path / "saved")
    assert load_file(tmp_path / "saved" / "model.safetensors").keys() == dict(model.named_parameters()).keys()
    again = peer_of(tmp_path / "saved")
    tokens = random_tokens(2, 9)
    assert torch.equal(again(tokens).logits, peer(tokens).logits)
    assert again.generation_config.to_dict() == peer.generation_config.to_dict()
    assert (again.decoder.head.weight is again.decoder.embedding.weight) == tied


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "settings",
    [{}, ALIBI, SUMMARY, DREAMING, THOUGHTS],
    ids=["plain", "alibi", "module", "dreaming", "thoughts"],
)
@torch.no_grad()
def test_another_precision_can_be_asked_for(
    snapshot_of: SnapshotOf, settings: dict[str, Any], dtype: torch.dtype
) -> None:
    model = build(**settings)
    peer = peer_of(snapshot_of(model), dtype=dtype)
    tokens = random_tokens(2, 21)
    documents = torch.zeros_like(tokens)
    assert {parameter.dtype for parameter in peer.parameters()} == {dtype}
    exact = logits_of(model, tokens, documents, [])
    logits = peer(tokens).logits
    assert torch.equal(logits, logits_of(model.to(dtype), tokens, documents, []))
    assert (logits - exact).norm() < 0.1 * exact.norm()
    written = peer.generate(tokens, max_new_tokens=12, min_new_tokens=12, do_sample=False)
    assert written.shape == (2, 33)


@pytest.mark.parametrize("settings", [SUMMARY, DREAMING, THOUGHTS], ids=["module", "dreaming", "thoughts"])
def test_a_model_in_half_precision_can_be_trained(settings: dict[str, Any]) -> None:
    model, tokens = build(**settings).bfloat16().train(), random_tokens(2, 24)
    found = model(tokens, torch.zeros_like(tokens), model.start(2))
    (model.logits(found.hidden).square().mean() + sum(found.losses.values())).backward()
    assert all(torch.isfinite(one.grad).all() for one in model.parameters() if one.grad is not None)


@pytest.mark.parametrize("settings", [{}, SUMMARY], ids=["plain", "module"])
@torch.no_grad()
def test_a_cache_that_is_passed_is_filled_whatever_is_given_back(
    snapshot_of: SnapshotOf, settings: dict[str, Any]
) -> None:
    peer, tokens, cache = peer_of(snapshot_of(build(**settings))), random_tokens(2, 20), CarryCache()
    assert peer(tokens[:, :11], past_key_values=cache, use_cache=False).past_key_values is None
    after = peer(tokens[:, 11:], past_key_values=cache).logits
    torch.testing.assert_close(after, peer(tokens).logits[:, 11:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("settings", [{}, SUMMARY, THOUGHTS], ids=["plain", "module", "thoughts"])
@pytest.mark.parametrize("cut", [1, 4, 7, 12])
@torch.no_grad()
def test_padding_on_the_left_may_come_in_parts(snapshot_of: SnapshotOf, settings: dict[str, Any], cut: int) -> None:
    peer = peer_of(snapshot_of(build(**settings)))
    tokens, padding = random_tokens(4, 30), [0, 3, 7, 12]
    mask = torch.stack([(torch.arange(30) >= columns).long() for columns in padding])
    cache, parts = CarryCache(), []
    for begin in range(0, 30, cut):
        end = min(begin + cut, 30)
        parts.append(peer(tokens[:, begin:end], attention_mask=mask[:, :end], past_key_values=cache).logits)
    whole, parts_of_it = peer(tokens, attention_mask=mask).logits, torch.cat(parts, dim=1)
    for row, columns in enumerate(padding):
        torch.testing.assert_close(parts_of_it[row, columns:], whole[row, columns:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("settings", [{}, THOUGHTS], ids=["plain", "thoughts"])
def test_a_cache_made_in_inference_mode_is_good_outside_of_it(
    snapshot_of: SnapshotOf, settings: dict[str, Any]
) -> None:
    peer, tokens = peer_of(snapshot_of(build(**settings))), random_tokens(2, 30)
    with torch.inference_mode():
        cache = peer(tokens[:, :10]).past_key_values
        peer(tokens[:, 10:11], past_key_values=cache)
    with torch.no_grad():
        after = [peer(tokens[:, place : place + 1], past_key_values=cache).logits for place in range(11, 30)]
        whole = peer(tokens).logits
    torch.testing.assert_close(torch.cat(after, dim=1), whole[:, 11:], atol=1e-5, rtol=1e-5)


def test_a_weight_that_the_folder_lacks_is_never_left_to_chance(snapshot_of: SnapshotOf) -> None:
    folder = snapshot_of(build())
    weights = load_file(folder / "model.safetensors")
    del weights["layers.1.attention.query.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lack layers\.1\.attention\.query\.weight"):
        peer_of(folder)


def test_what_the_decoder_cannot_do_is_refused_by_name(snapshot_of: SnapshotOf) -> None:
    peer = peer_of(snapshot_of(build(positions="learned")))
    tokens = random_tokens(1, 65)
    with pytest.raises(RangeError, match="65 tokens do not fit: the model has 64 positions"):
        peer(tokens)
    with pytest.raises(UserMistake, match="token ids, not vectors"):
        peer(inputs_embeds=torch.zeros(1, 2, 32))
    with pytest.raises(UserMistake, match="does nothing with position_ids, output_attentions"):
        peer(tokens[:, :3], position_ids=torch.arange(3)[None], output_attentions=True, output_hidden_states=False)
    with pytest.raises(UserMistake, match="cannot use a DynamicCache"):
        peer(tokens[:, :3], past_key_values=DynamicCache())
    for assistance in ({"prompt_lookup_num_tokens": 2}, {"assistant_model": peer}):
        with pytest.raises(UserMistake, match="models are no assistants and have none"):
            peer.generate(tokens[:, :3], max_new_tokens=4, **assistance)
    with pytest.raises(UserMistake, match="cannot be cropped"):
        CarryCache().crop(1)
    with pytest.raises(UserMistake, match="keeps the tokens that it was trained with"):
        peer.resize_token_embeddings(310)
    with pytest.raises(UserMistake, match="keeps the tokens that it was trained with"):
        peer.resize_token_embeddings(300, pad_to_multiple_of=64)
    assert peer.resize_token_embeddings(300, pad_to_multiple_of=100) is peer.get_input_embeddings()
    with pytest.raises(UserMistake, match="not copied to several devices within one process"):
        peer._replicate_for_data_parallel()
    assert peer.resize_token_embeddings(300) is peer.resize_token_embeddings() is peer.get_input_embeddings()


def test_a_model_that_fills_in_blocks_is_refused_by_name(snapshot_of: SnapshotOf) -> None:
    folder = snapshot_of(build(diffusion={"block_size": 4}))
    with pytest.raises(UserMistake, match="a causal language model of transformers needs a model that predicts one"):
        peer_of(folder)


def test_another_way_to_attend_is_not_taken_and_left_unused(snapshot_of: SnapshotOf) -> None:
    folder = snapshot_of(build())
    assert peer_of(folder, attn_implementation="sdpa").config._attn_implementation == "sdpa"
    for other in ("eager", "flash_attention_2"):
        with pytest.raises(UserMistake, match=f"attention cannot be {other}: a dreamlm model computes it"):
            peer_of(folder, attn_implementation=other)


def test_tools_of_transformers_find_the_sizes_they_look_for(snapshot_of: SnapshotOf) -> None:
    for kv_heads in (2, None):
        config = peer_of(snapshot_of(build(num_kv_heads=kv_heads))).config
        sizes = (config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads)
        assert sizes == (2, 4, kv_heads or 4)
        assert config.max_position_embeddings == 64


def test_transformers_names_of_sizes_say_the_same_as_dreamlms() -> None:
    sizes = {"hidden_size": 192, "seq_length": 64}
    theirs = DreamLMConfig(**sizes, num_attention_heads=6, num_hidden_layers=3, tie_word_embeddings=False)
    assert (theirs.num_heads, theirs.num_key_value_heads) == (6, 6)
    own = DreamLMConfig(**sizes, num_heads=6, num_layers=3, tie_embeddings=False)
    assert theirs.to_dict() == own.to_dict()
    assert theirs.decoder_config() == own.decoder_config()


def test_a_model_built_from_a_configuration_is_initialised_as_dreamlm_does(snapshot_of: SnapshotOf) -> None:
    config = peer_of(snapshot_of(build())).config
    torch.manual_seed(9)
    fresh = AutoModelForCausalLM.from_config(config)
    torch.manual_seed(9)
    own = config.decoder_config().build(300)
    assert all(torch.equal(*pair) for pair in zip(fresh.parameters(), own.parameters(), strict=True))


@pytest.mark.parametrize("keep", [1, 3, torch.tensor([0, 5])])
def test_logits_are_of_the_places_that_are_asked_for(snapshot_of: SnapshotOf, keep: int | Tensor) -> None:
    peer, tokens = peer_of(snapshot_of(build())), random_tokens(2, 8)
    whole = peer(tokens).logits
    wanted = whole[:, -keep:] if isinstance(keep, int) else whole[:, keep]
    torch.testing.assert_close(peer(tokens, logits_to_keep=keep).logits, wanted)

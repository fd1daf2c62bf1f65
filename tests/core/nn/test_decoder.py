"""The decoder does what a decoder must, however its input is cut, packed, padded or cached."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.signal import positions_in_documents
from dreamlm.core.objectives.causal import CausalObjective

VOCAB = 97


def build(seed: int = 0, **options: object) -> DreamLM:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "seq_length": 16}
    model = DreamLM.Config.model_validate({**sizes, **options}).build(VOCAB)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


CHOICES = {
    "plain": {},
    "learned positions": {"positions": "learned"},
    "ALiBi": {"positions": "alibi"},
    "no positions": {"positions": "none"},
    "YaRN in one layer": {"positions": {"scaling": {"type": "yarn", "factor": 4, "original_length": 8, "layers": [1]}}},
    "two scalings": {
        "positions": {
            "scaling": {"type": "linear", "factor": 4, "layers": [1]},
            "scaling_elsewhere": [{"type": "yarn", "factor": 2, "original_length": 8}],
        }
    },
    "learnable activation": {"feed_forward": "learnable"},
    "experts": {"feed_forward": {"type": "moe", "num_experts": 4}},
    "sparsemax": {"attention_activation": "sparsemax"},
    "gated attention": {"attention_gate": True},
    "soft cap": {"logit_soft_cap": 3.0},
}


@pytest.fixture(params=CHOICES)
def model(request: pytest.FixtureRequest) -> DreamLM:
    return build(**CHOICES[request.param]).eval()


def tokens(rows: int = 3, length: int = 16) -> torch.Tensor:
    return torch.randint(0, VOCAB, (rows, length), generator=torch.Generator().manual_seed(1))


def one_document(ids: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(ids, dtype=torch.int32)


def logits(model: DreamLM, ids: torch.Tensor, documents: torch.Tensor | None = None) -> torch.Tensor:
    documents = one_document(ids) if documents is None else documents
    return model.logits(model(ids, documents, model.start(len(ids))).hidden)


def test_changing_a_token_leaves_earlier_logits_bit_identical(model: DreamLM) -> None:
    ids = tokens()
    changed = ids.clone()
    changed[:, 9] = (changed[:, 9] + 1) % VOCAB
    before, after = logits(model, ids), logits(model, changed)
    assert torch.equal(before[:, :9], after[:, :9])
    assert not torch.equal(before[:, 9], after[:, 9])


def test_promising_one_document_changes_nothing_but_the_cost(model: DreamLM) -> None:
    ids = tokens()
    plain = model(ids, one_document(ids), model.start(3), boundaries=False).hidden
    masked = model(ids, one_document(ids), model.start(3), boundaries=True).hidden
    torch.testing.assert_close(plain, masked, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cuts", [[16], [1] * 16, [5, 1, 7, 3]])
def test_any_cut_of_the_tokens_gives_the_logits_of_one_pass(model: DreamLM, cuts: list[int]) -> None:
    ids = tokens()
    documents = torch.tensor([[0] * 16, [0] * 6 + [1] * 10, [-1] * 3 + [0] * 4 + [1] * 9], dtype=torch.int32)
    whole = logits(model, ids, documents)
    carry, parts, begin = model.start(3), [], 0
    with torch.no_grad():
        for length in cuts:
            span = slice(begin, begin + length)
            signal = model(ids[:, span], documents[:, span], carry)
            carry, begin = signal.carry, begin + length
            parts.append(model.logits(signal.hidden))
    real = documents >= 0
    torch.testing.assert_close(torch.cat(parts, dim=1)[real], whole[real], atol=1e-4, rtol=1e-4)


def test_a_packed_document_does_not_know_its_neighbour(model: DreamLM) -> None:
    ids = tokens(rows=1)
    documents = torch.tensor([[0] * 6 + [1] * 10], dtype=torch.int32)
    packed = logits(model, ids, documents)
    torch.testing.assert_close(packed[:, 6:], logits(model, ids[:, 6:]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(packed[:, :6], logits(model, ids[:, :6]), atol=1e-5, rtol=1e-5)


def test_padding_and_other_rows_influence_nothing(model: DreamLM) -> None:
    ids = tokens(rows=2, length=8)
    alone = logits(model, ids[:1])
    padded = torch.cat([torch.full((2, 4), 5), ids], dim=1)
    documents = torch.cat([torch.full((2, 4), -1), torch.zeros(2, 8, dtype=torch.int64)], dim=1)
    torch.testing.assert_close(logits(model, padded, documents)[:1, 4:], alone, atol=1e-5, rtol=1e-5)
    padded[:, :4] = 7
    torch.testing.assert_close(logits(model, padded, documents)[:1, 4:], alone, atol=1e-5, rtol=1e-5)
    padded[1] = 11
    torch.testing.assert_close(logits(model, padded, documents)[:1, 4:], alone, atol=1e-5, rtol=1e-5)


def test_two_branches_of_one_carry_do_not_overwrite_each_other(model: DreamLM) -> None:
    ids = tokens(rows=1, length=12)
    with torch.no_grad():
        prefix = model(ids[:, :8], one_document(ids[:, :8]), model.start(1)).carry
        for _ in range(2):  # the second round grows no buffer, which is where sharing could go wrong
            prefix = model(ids[:, 8:9], one_document(ids[:, 8:9]), prefix).carry
        left = model(ids[:, 9:10], one_document(ids[:, 9:10]), prefix)
        model(ids[:, 10:11], one_document(ids[:, 10:11]), prefix)
        after_left = model(ids[:, 11:12], one_document(ids[:, 11:12]), left.carry).hidden
        whole = torch.cat([ids[:, :9], ids[:, 8:9], ids[:, 9:10], ids[:, 11:12]], dim=1)
        expected = model(whole, one_document(whole), model.start(1)).hidden[:, -1:]
    torch.testing.assert_close(after_left, expected, atol=1e-4, rtol=1e-4)


def test_selected_rows_of_a_carry_go_on_alone(model: DreamLM) -> None:
    ids = tokens()
    with torch.no_grad():
        carry = model(ids[:, :10], one_document(ids[:, :10]), model.start(3)).carry
        rows = torch.tensor([2, 0])
        signal = model(ids[rows, 10:], one_document(ids[rows, 10:]), carry.select(rows))
        expected = model(ids, one_document(ids), model.start(3)).hidden[rows, 10:]
    torch.testing.assert_close(signal.hidden, expected, atol=1e-4, rtol=1e-4)


def test_selected_rows_keep_where_their_segments_end() -> None:
    """A row behind 3 columns of padding goes on in its own segments when its neighbours have left the batch."""
    model = build(segment_length=4, modules=["segment_summary"]).eval()
    ids, documents = tokens(), one_document(tokens())
    documents[1, :3] = -1
    with torch.no_grad():
        carry = model(ids[:, :9], documents[:, :9], model.start(3, left_padding=[0, 3, 0])).carry
        row = torch.tensor([1])
        signal = model(ids[row, 9:], documents[row, 9:], carry.select(row))
        alone = model(ids[row, 3:], one_document(ids[row, 3:]), model.start(1)).hidden[:, 6:]
    torch.testing.assert_close(signal.hidden, alone, atol=1e-4, rtol=1e-4)


def test_a_carry_that_records_nothing_holds_nothing_of_the_last_segment() -> None:
    model = build(segment_length=4, modules=["segment_summary"]).eval()
    ids = tokens()
    with torch.no_grad():
        recorded, dropped = (model(ids, one_document(ids), model.start(3, records=one)) for one in (True, False))
    assert torch.equal(recorded.hidden, dropped.hidden), "segments of one call know of each other all the same"
    lengths = [signal.carry.states["layers.0"].length for signal in (recorded, dropped)]
    assert lengths == [16, 12]


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=2, max_size=24), st.sets(st.integers(1, 23)))
@settings(max_examples=80)
def test_positions_count_the_tokens_of_a_document_across_cuts_and_padding(
    steps: list[tuple[int, bool]], cuts: set[int]
) -> None:
    document, row = 0, []
    for further, padding in steps:
        document += further
        row.append(-1 if padding else document)
    naive = [0 if one < 0 else row[:place].count(one) for place, one in enumerate(row)]
    model, found = build(), []
    carry = model.start(1)
    edges = [0, *sorted(cut for cut in cuts if cut < len(row)), len(row)]
    for begin, end in pairwise(edges):
        part = torch.tensor([row[begin:end]], dtype=torch.int32)
        position_BT, last_B, next_B = positions_in_documents(carry, part)
        found += position_BT[0].tolist()
        carry = replace(carry, tokens=end, last_document_B=last_B, next_position_B=next_B)
    assert found == naive


@pytest.mark.parametrize("choice", ["plain", "experts", "sparsemax"])
def test_activation_checkpointing_changes_neither_loss_nor_gradient(choice: str) -> None:
    results = []
    for enabled in (False, True):
        model = build(dropout=0.1, **CHOICES[choice])
        model.checkpoint_activations(enabled)
        torch.manual_seed(3)
        losses = CausalObjective(model, 0.1)(tokens(), one_document(tokens()), True).objectives
        loss = sum(losses.values())
        loss.backward()
        results.append([loss, *(parameter.grad for parameter in model.parameters())])
    for plain, checkpointed in zip(*results, strict=True):
        assert torch.equal(plain, checkpointed)


def test_every_parameter_gets_gradient(model: DreamLM) -> None:
    CausalObjective(model.train(), 0.0)(tokens(), one_document(tokens()), True).objectives["token"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_a_gate_multiplies_what_each_head_brings() -> None:
    """Against heads one by one, with weights that anybody can follow."""
    gated, plain = build(attention_gate=True), build()
    names = {name for name, _ in gated.named_parameters()} - {name for name, _ in plain.named_parameters()}
    assert names == {"layers.0.attention.gate.weight", "layers.1.attention.gate.weight"}
    attention = gated.layers[0].attention
    brought: list[torch.Tensor] = []
    attention.output.register_forward_pre_hook(lambda part, given: brought.append(given[0]))
    hidden = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(3))
    attention.register_forward_pre_hook(lambda part, given: (hidden, *given[1:]))
    with torch.no_grad():
        logits(gated, tokens(2, 5))
        weight = attention.gate.weight.clone()
        attention.gate.weight.zero_()
        logits(gated, tokens(2, 5))
    with_gate, without = brought
    for head in range(4):
        columns = slice(8 * head, 8 * head + 8)
        factor = 2 / (1 + torch.exp(-(hidden * weight[head]).sum(dim=-1, keepdim=True)))
        torch.testing.assert_close(with_gate[..., columns], without[..., columns] * factor)


def test_a_gate_without_an_opinion_changes_nothing() -> None:
    gated, plain = build(attention_gate=True), build()
    with torch.no_grad():
        for layer in gated.layers:
            layer.attention.gate.weight.zero_()
        weights = {name: one for name, one in gated.state_dict().items() if not name.endswith("attention.gate.weight")}
        plain.load_state_dict(weights)
    assert torch.equal(logits(gated, tokens()), logits(plain, tokens()))


@pytest.mark.parametrize("hidden_size", [64, 512])
@pytest.mark.parametrize(
    "choice",
    [
        *CHOICES.values(),
        {"tie_embeddings": False},
        {"feed_forward": "relu2"},
        {"feed_forward": "gelu"},
        {"positions": "alibi"},
        {"positions": "none"},
        {"norm": "layernorm", "qk_norm": False},
    ],
    ids=str,
)
def test_a_fresh_model_knows_nothing(hidden_size: int, choice: dict[str, object]) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": hidden_size, "num_layers": 3, "seq_length": 32}
    config = DreamLM.Config.model_validate({**sizes, **choice})
    vocab = 4096
    model = config.build(vocab)
    ids = torch.randint(0, vocab, (16, 33))
    losses = CausalObjective(model, 0.0)(ids, one_document(ids), False)
    assert losses.nll.item() / losses.tokens.item() == pytest.approx(math.log(vocab), rel=0.02)


@pytest.mark.parametrize("mask_vector", [True, False])
def test_an_id_that_no_token_has_is_never_read_as_another(mask_vector: bool) -> None:
    model = build(mask_vector=mask_vector)
    unknown = VOCAB + 1 if mask_vector else VOCAB
    with pytest.raises(IndexError):
        model.embed(torch.tensor([[0, unknown]]), torch.tensor([[0, 1]]))


def test_a_hidden_token_is_the_mask_vector_alone() -> None:
    model = build(mask_vector=True, dropout=0.0)
    ids = torch.tensor([[0, model.mask_id, VOCAB - 1]])
    embedded = model.embed(ids, torch.arange(3)[None])
    assert torch.equal(
        embedded[0], torch.stack([model.embedding.weight[0], model.mask_vector, model.embedding.weight[-1]])
    )
    embedded[0, 1].sum().backward()
    assert not model.embedding.weight.grad.any()


@pytest.mark.parametrize("bad", [{"num_heads": 3}, {"num_kv_heads": 3}, {"segment_length": 5}])
def test_sizes_that_do_not_fit_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        DreamLM.Config.model_validate({"hidden_size": 32, "num_heads": 4, "seq_length": 16, **bad})


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"segment_length": 1, "modules": ["segment_summary"]}, "modules need segments of 2 tokens or more"),
        ({"feed_forward": {"type": "moe", "num_experts": 1, "top_k": 1}}, r"num_experts\n.*greater than or equal to 2"),
        (
            {"segment_length": 4, "modules": [{"type": "thought_stack", "thought_dims": (1, 2, 2)}]},
            r"thought_dims\.0\n.*greater than or equal to 2",
        ),
        ({"vision": {"type": "lite", "image_size": 8}}, r"image_size\n.*greater than or equal to 16"),
    ],
)
def test_where_there_is_nothing_to_choose_from_no_weights_are_built_that_would_choose(bad: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build(**bad)


def test_all_sizes_that_do_not_fit_are_told_at_once() -> None:
    told = (
        r"times an even head size; num_kv_heads 2 must divide num_heads 3; segment_length 7 must divide seq_length 16"
    )
    with pytest.raises(ValueError, match=told):
        build(num_heads=3, segment_length=7)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_logits_equal_transformers_given_the_same_weights(qk_norm: bool) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    model = build(qk_norm=qk_norm, tie_embeddings=False)
    shape = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": model.config.feed_forward_size,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": False,
    }
    peer = Qwen3ForCausalLM(Qwen3Config(**shape)) if qk_norm else LlamaForCausalLM(LlamaConfig(**shape))
    names = {
        "embedding": "model.embed_tokens",
        "head": "lm_head",
        "norm": "model.norm",
        "layers": "model.layers",
        "attention_norm": "input_layernorm",
        "feed_forward_norm": "post_attention_layernorm",
        "attention": "self_attn",
        "feed_forward": "mlp",
        "query": "q_proj",
        "key": "k_proj",
        "value": "v_proj",
        "output": "o_proj",
        "query_norm": "q_norm",
        "key_norm": "k_norm",
        "gate": "gate_proj",
        "up": "up_proj",
        "down": "down_proj",
    }
    weights = {".".join(names.get(part, part) for part in key.split(".")): w for key, w in model.state_dict().items()}
    peer.load_state_dict(weights)
    with torch.no_grad():
        torch.testing.assert_close(logits(model, tokens()), peer(tokens()).logits, atol=1e-5, rtol=1e-5)

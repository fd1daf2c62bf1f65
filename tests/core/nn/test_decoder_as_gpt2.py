"""With learned positions, LayerNorm and GELU the decoder is a GPT-2 whose linear layers have no biases."""

import pytest
import torch

from dreamlm.core.nn.decoder import DreamLM

VOCAB, WIDTH, LENGTH = 61, 24, 12


def decoder(**options: object) -> DreamLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "num_layers": 2, "num_heads": 3, "seq_length": LENGTH, "qk_norm": False}
    parts = {"positions": "learned", "norm": "layernorm", "feed_forward": "gelu"}
    model = DreamLM.Config.model_validate({**sizes, **parts, **options}).build(VOCAB)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model.eval()


def weights_of_gpt2(model: DreamLM) -> dict[str, torch.Tensor]:
    """Under GPT-2's names; its matrices stand the other way round, and it has one for queries, keys and values."""
    own = model.state_dict()
    norms = {"norm": "transformer.ln_f"}
    weights = {
        "transformer.wte.weight": own["embedding.weight"],
        "transformer.wpe.weight": own["positions.table.weight"],
    }
    weights["lm_head.weight"] = own["head.weight"]
    for index in range(2):
        here, there = f"layers.{index}", f"transformer.h.{index}"
        norms |= {f"{here}.attention_norm": f"{there}.ln_1", f"{here}.feed_forward_norm": f"{there}.ln_2"}
        mixed = torch.cat([own[f"{here}.attention.{name}.weight"] for name in ("query", "key", "value")])
        matrices = {
            "attn.c_attn": mixed,
            "attn.c_proj": own[f"{here}.attention.output.weight"],
            "mlp.c_fc": own[f"{here}.feed_forward.up.weight"],
            "mlp.c_proj": own[f"{here}.feed_forward.down.weight"],
        }
        for name, matrix in matrices.items():
            weights |= {f"{there}.{name}.weight": matrix.T, f"{there}.{name}.bias": torch.zeros(len(matrix))}
    return weights | {f"{norms[name]}.{kind}": own[f"{name}.{kind}"] for name in norms for kind in ("weight", "bias")}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("epsilon", [1e-5, 0.5])
def test_logits_equal_those_of_gpt2_given_the_same_weights(tied: bool, epsilon: float) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = decoder(tie_embeddings=tied, norm_epsilon=epsilon, intermediate_size=40)
    shape = {"n_embd": WIDTH, "n_layer": 2, "n_head": 3, "n_positions": LENGTH, "n_inner": 40, "vocab_size": VOCAB}
    facts = {"layer_norm_epsilon": epsilon, "tie_word_embeddings": tied, "activation_function": "gelu_new"}
    peer = GPT2LMHeadModel(GPT2Config(**shape, **facts)).eval()
    peer.load_state_dict(weights_of_gpt2(model))
    ids = torch.randint(0, VOCAB, (3, LENGTH), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        signal = model(ids, torch.zeros_like(ids), model.start(3))
        torch.testing.assert_close(model.logits(signal.hidden), peer(ids).logits, atol=1e-5, rtol=1e-5)

"""Re-scaled positions survive an export, or are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_convert import build, logits, save

from dreamlm.checkpoints.convert.llama import export
from dreamlm.checkpoints.convert.stock import read_decoder
from dreamlm.core.errors import UserMistake

YARN = {"type": "yarn", "factor": 4, "original_length": 16}
LLAMA3 = {"type": "llama3", "factor": 8, "original_length": 16, "beta_fast": 3}


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize(
    "scaling", [YARN, {**YARN, "beta_fast": 8, "beta_slow": 2}, {"type": "linear", "factor": 4}, LLAMA3], ids=str
)
def test_transformers_computes_the_same_logits_over_a_rescaled_window(
    tmp_path: Path, qk_norm: bool, scaling: dict[str, Any]
) -> None:
    from transformers import AutoModelForCausalLM

    model = build(qk_norm=qk_norm, seq_length=64, positions={"type": "rope", "theta": 500.0, "scaling": scaling})
    export(save(tmp_path, model), tmp_path / "stock")
    peer = AutoModelForCausalLM.from_pretrained(tmp_path / "stock", trust_remote_code=False).eval()
    tokens = torch.randint(0, 258, (2, 64), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        torch.testing.assert_close(peer(tokens).logits, logits(model, tokens), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("scaling", "rule"),
    [
        ({"type": "linear", "factor": 4}, {"rope_type": "linear", "factor": 4.0}),
        (
            YARN,
            {
                **{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
                **{"beta_fast": 32.0, "beta_slow": 1.0},
            },
        ),
        (
            LLAMA3,
            {
                **{"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 16},
                **{"high_freq_factor": 3.0, "low_freq_factor": 1.0},
            },
        ),
        ("none", None),
    ],
    ids=["linear", "yarn", "llama3", "none"],
)
def test_transformers_4_finds_positions_under_its_own_keys_as_well(
    tmp_path: Path, scaling: Any, rule: dict[str, Any] | None
) -> None:
    model = build(seq_length=64, positions={"type": "rope", "theta": 500.0, "scaling": scaling})
    export(save(tmp_path, model), tmp_path / "stock")
    config = json.loads((tmp_path / "stock" / "config.json").read_text())
    assert (config["rope_theta"], config.get("rope_scaling")) == (500.0, rule)


@pytest.mark.parametrize("scaling", [YARN, LLAMA3], ids=["yarn", "llama3"])
@pytest.mark.parametrize("beside", [True, False], ids=["beside another", "alone"])
def test_a_trained_length_told_outside_of_the_scaling_is_the_one_that_transformers_takes(
    tmp_path: Path, scaling: dict[str, Any], beside: bool
) -> None:
    from transformers import AutoModelForCausalLM

    model = build(seq_length=64, positions={"type": "rope", "theta": 500.0, "scaling": scaling})
    path = Path(export(save(tmp_path, model), tmp_path / "stock").folder) / "config.json"
    config = json.loads(path.read_text())
    for key in ("rope_parameters", "rope_scaling"):
        del config[key]["original_max_position_embeddings"]
        config[key] |= {"original_max_position_embeddings": 32} if beside else {}
    path.write_text(json.dumps({**config, "original_max_position_embeddings": 16}))
    peer = AutoModelForCausalLM.from_pretrained(path.parent, trust_remote_code=False).eval()
    tokens = torch.randint(0, 258, (2, 64), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        torch.testing.assert_close(peer(tokens).logits, logits(model, tokens), atol=1e-5, rtol=1e-5)
    assert read_decoder(path.parent).positions == model.config.positions


def test_positions_rescaled_in_some_layers_are_refused_by_name(tmp_path: Path) -> None:
    model = build(positions={"type": "rope", "scaling": {**YARN, "layers": "lower_half"}})
    with pytest.raises(UserMistake, match="positions re-scaled in layers lower_half only"):
        export(save(tmp_path, model), tmp_path / "stock")
    assert not (tmp_path / "stock").exists()


def test_several_rules_are_refused_as_such(tmp_path: Path) -> None:
    positions = {"scaling": {**YARN, "layers": [0]}, "scaling_elsewhere": [{"type": "linear", "factor": 2}]}
    with pytest.raises(UserMistake, match=r"re-scaled in layers \[0\], and by another rule elsewhere"):
        export(save(tmp_path, build(positions=positions)), tmp_path / "stock")


def test_a_snapshot_older_than_scaling_is_exported_without_one(tmp_path: Path) -> None:
    model = build()
    exported = export(save(tmp_path, model, positions={"type": "rope", "theta": 500.0}), tmp_path / "stock")
    assert exported.architecture == "Qwen3ForCausalLM"
    assert '"rope_type": "default"' in (tmp_path / "stock" / "config.json").read_text()

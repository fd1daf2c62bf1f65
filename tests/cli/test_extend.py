"""`--extend-max-seq-len`, `--rescale-layers` and `--set`, as `eval` and `generate` take them."""

import json
from pathlib import Path
from typing import Any

import pytest

PRESET = {
    "name": "short",
    "model": {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "seq_length": 16},
    "tokenizer": {"type": "bpe", "vocab_size": 300},
    "data": {"sources": [{"type": "jsonl", "paths": "lines.jsonl"}], "validation_fraction": 0.1, "min_text_length": 1},
    "train": {"train_tokens": 600, "per_gpu_batch_size": 8, "precision": "fp32"},
    "generate": {"max_new_tokens": 4},
}


@pytest.fixture
def run(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DREAMLM_HOME", str(tmp_path / "home"))
    lines = [f"The {one} met the {other}, and they went home." for one in ANIMALS for other in ANIMALS]
    Path("lines.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in lines))
    Path("short.json").write_text(json.dumps(PRESET))
    assert cli("train", "--preset", "short.json").code == 0
    return "runs/short"


ANIMALS = ("fox", "crow", "lion", "mouse", "hare", "tortoise", "wolf", "crane", "dog", "ox", "ant", "dove")


def test_both_commands_extend_the_model(cli: Any, run: str) -> None:
    longer = ("--extend-max-seq-len", "64", "--rescale-layers", "0", "--json")
    report = json.loads(cli("eval", "--run", run, *longer).out)
    assert len(report["position_cross_entropy"]) == 64
    prompt = "The fox met the crow, and the wolf met the dove. " * 2
    short, long = (cli("generate", "--run", run, *more, prompt) for more in (("--json",), longer))
    assert json.loads(short.out)["dropped_prompt_tokens"] > 0
    assert json.loads(long.out)["dropped_prompt_tokens"] == 0

    for layers in ("0,x", "-1", ""):
        outcome = cli("eval", "--run", run, "--extend-max-seq-len", "64", f"--rescale-layers={layers}")
        assert (outcome.code, outcome.out) == (2, "")
        assert outcome.err.startswith(f"error: --rescale-layers {layers!r} names no layers\nvalid: all, lower_half,")
    outcome = cli("eval", "--run", run, "--extend-max-seq-len", "64", "--rescale-layers", "0,2")
    assert (outcome.code, outcome.out) == (2, "")
    assert "positions cannot be re-scaled in layer 2\nat: rescale_layers\nvalid: 0 to 1" in outcome.err
    outcome = cli("generate", "--run", run, "--rescale-layers", "lower_half", prompt)
    assert (outcome.code, outcome.out) == (2, "")
    assert "layers are re-scaled for an extension only" in outcome.err


@pytest.mark.parametrize(
    ("command", "read", "valid"),
    [
        (("eval", "--max-tokens", "50"), "eval.by=document", "eval, generate, data.packing"),
        (("generate", "The"), "generate.top_k=40", "generate"),
    ],
)
def test_a_setting_that_a_command_does_not_read_is_refused_before_the_model_is_read(
    cli: Any, run: str, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], read: str, valid: str
) -> None:
    asked = (*command, "--run", run, "--set", read)
    assert cli(*asked).code == 0
    monkeypatch.setattr("dreamlm.wiring.loading.load", lambda *arguments, **options: 1 / 0)
    monkeypatch.setattr("dreamlm.wiring.evaluation.load", lambda *arguments, **options: 1 / 0)
    outcome = cli(*asked, "--set", "train.seed=1", "--set", "data.sources=[]")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == (
        "error: --set train.seed=1, --set data.sources=[]: would change nothing, "
        "as this command reads other keys of the model's preset\n"
        f"valid: {valid}\nhelp: for example --set {read}\n"
    )

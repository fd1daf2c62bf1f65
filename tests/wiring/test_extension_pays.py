"""What extension is for: a model trained on 256 tokens reads 1,024 better with YaRN than as it is."""

from pathlib import Path

import pytest

from dreamlm.core.nn.positions.positions import LayerChoice
from dreamlm.core.training.hooks import Hook
from dreamlm.data_sources.progress import Silence
from dreamlm.presets.resolve import resolve
from dreamlm.wiring.evaluation import EvaluationRequest, evaluate
from dreamlm.wiring.training import TrainRequest, train

SMALL = (
    *("model.hidden_size=64", "model.num_layers=2", "model.seq_length=256", "model.attention_gate=false"),
    *("tokenizer.vocab_size=1024", "data.packing=concat", "data.validation_fraction=0.15"),
    *("train.train_tokens=600000", "train.eval_tokens=600000", "train.sample_prompts=[]"),
)


def losses(run: Path, seed: int) -> tuple[float, float]:
    """Nats per token at 1,024, of the model as it is and of the extended one."""
    train(TrainRequest(resolve("tiny", (*SMALL, f"train.seed={seed}")), run, workers=1), Hook(), Silence())

    def measured(layers: LayerChoice) -> float:
        request = EvaluationRequest(run, device="cpu", extend_max_seq_len=1024, rescale_layers=layers)
        return evaluate(request, lambda doing, done, total: None).perplexity.cross_entropy

    return measured(()), measured("all")


@pytest.mark.slow
def test_long_windows_cost_less_with_an_extension(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DREAMLM_HOME", str(tmp_path / "home"))
    as_it_is, extended = losses(tmp_path / "run", seed=0)
    assert extended < as_it_is

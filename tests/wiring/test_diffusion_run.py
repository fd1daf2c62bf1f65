"""A diffusion model with thoughts, from a preset on: trained, cut, resumed, measured, and what it is not for."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from workplace import Cut, Witness, Workplace, write_text

import dreamlm.core.hf.registration
from dreamlm.checkpoints.convert.llama import export
from dreamlm.checkpoints.manifest import read_manifest
from dreamlm.core.errors import UserMistake
from dreamlm.core.generation.generate import generate
from dreamlm.data_sources.progress import Silence
from dreamlm.wiring.diversity import DiversityRequest
from dreamlm.wiring.evaluation import EvaluationRequest, evaluate
from dreamlm.wiring.loading import load
from dreamlm.wiring.policy import train_policy
from dreamlm.wiring.policy_start import PolicyRequest
from dreamlm.wiring.reward_start import RewardRequest
from dreamlm.wiring.reward_training import train_reward
from dreamlm.wiring.training import TrainRequest, train

STEPS = 12


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("diffusion")
    write_text(folder / "text.jsonl", documents=60, seed=0)
    write_text(folder / "pairs.jsonl", documents=40, seed=1)
    values: dict[str, Any] = {
        "model": {
            "hidden_size": 32,
            "num_layers": 1,
            "num_heads": 2,
            "seq_length": 32,
            "segment_length": 8,
            "diffusion": "block_diffusion",
            "modules": [{"type": "thought_stack", "thought_dims": [2, 3, 2]}],
        },
        "tokenizer": {"type": "bpe", "vocab_size": 280},
        "data": {"sources": [{"type": "jsonl", "paths": "text.jsonl"}]},
        "train": {
            "train_tokens": 8 * 32 * STEPS,
            "per_gpu_batch_size": 8,
            "precision": "fp32",
            "optimizer": {"learning_rate": 1e-2},
            "save_interval_steps": 2,
            "eval_tokens": 8 * 32 * STEPS,
        },
        "generate": {"max_new_tokens": 12, "denoising": {"steps": 3}},
    }
    (folder / "small.json").write_text(json.dumps(values))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DREAMLM_HOME", str(folder / "home"))
        yield Workplace(folder)


@pytest.fixture(scope="module")
def whole(place: Workplace) -> Path:
    place.train(place.folder / "whole")
    return place.folder / "whole"


def test_a_run_cut_again_and_again_ends_like_one_that_never_stopped(place: Workplace, whole: Path) -> None:
    run = place.folder / "cut"
    for step in (1, 4, 5, 9):
        with pytest.raises(KeyboardInterrupt):
            train(TrainRequest(place.preset(), run, workers=1), Cut(step), Silence())
    place.train(run)
    for name in ("model", "optimizer"):
        ours, theirs = (load_file(one / "checkpoints" / "lm_current" / f"{name}.safetensors") for one in (run, whole))
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[key], theirs[key]) for key in theirs), name


def test_its_bound_is_measured_and_falls(whole: Path) -> None:
    report = evaluate(EvaluationRequest(whole), lambda doing, done, total: None).perplexity
    again = evaluate(EvaluationRequest(whole, sets=("eval.rows=3",)), lambda doing, done, total: None).perplexity
    more = evaluate(
        EvaluationRequest(whole, sets=("eval.bound_samples=16",)), lambda doing, done, total: None
    ).perplexity
    assert report.cross_entropy < np.log(280) - 0.5
    assert again.cross_entropy == pytest.approx(report.cross_entropy, abs=1e-6)
    assert 0 < more.monte_carlo_error < report.monte_carlo_error
    assert abs(more.cross_entropy - report.cross_entropy) < 5 * report.monte_carlo_error
    written = json.loads((whole / "training_report.json").read_text())
    told = written["evaluations"][-1]
    assert told["nll"] == pytest.approx(report.cross_entropy, abs=1e-6)
    assert told["monte_carlo_error"] == pytest.approx(report.monte_carlo_error, rel=1e-6)
    assert report.is_bound is told["is_bound"] is written["end"]["is_bound"] is True
    assert read_manifest(whole / "checkpoints" / "lm_current").record.is_bound


def test_a_finished_run_still_tells_a_bound(place: Workplace, whole: Path) -> None:
    [end] = place.train(whole).ends
    assert (end.reason, end.is_bound) == ("already_finished", True)


def test_metrics_name_its_losses(whole: Path) -> None:
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    step = next(line for line in reversed(lines) if line["event"] == "step")
    names = {"consistency", "diversity", "sparsity", "contrastive", "next_thought"}
    assert set(step["objectives"]) == {"token", *(f"thought_stack.{name}" for name in names)}
    assert "thought_stack.norm" in step["probes"]


def test_a_snapshot_writes_what_the_run_would(whole: Path) -> None:
    loaded = load(whole, "cpu")
    first, second = (generate(loaded.model, loaded.tokenizer, ["the cat"], loaded.preset.generate) for _ in range(2))
    assert first == second
    assert 0 < len(first[0].token_ids) <= 12


@pytest.mark.parametrize(
    "use",
    [
        lambda run: train_policy(PolicyRequest(run.parent / "policy", run), Witness()),
        lambda run: train_reward(RewardRequest(run, run.parent / "judge"), Witness()),
        lambda run: _load_as_causal(run / "checkpoints" / "lm_current"),
    ],
    ids=["policy", "reward", "transformers"],
)
def test_what_takes_one_token_after_another_refuses_it(use: Any, whole: Path) -> None:
    with pytest.raises(UserMistake, match="one token after another") as caught:
        use(whole)
    assert caught.value.where == "model.diffusion"


def test_it_is_no_judge_of_texts(whole: Path) -> None:
    request = EvaluationRequest(whole, sections=[DiversityRequest(2, reference=whole)])
    with pytest.raises(UserMistake, match="a reference needs a model that predicts one token after another") as caught:
        evaluate(request, lambda doing, done, total: None)
    assert (caught.value.where, caught.value.hint) == (f"--reference {whole}", "name a causal checkpoint")


def _load_as_causal(folder: Path) -> object:
    from transformers import AutoModelForCausalLM

    assert dreamlm.core.hf.registration
    return AutoModelForCausalLM.from_pretrained(folder)


def test_no_stock_architecture_can_express_it(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(UserMistake, match="diffusion"):
        export(whole / "checkpoints" / "lm_current", tmp_path / "llama")

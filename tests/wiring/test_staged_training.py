"""Curricula as a preset asks for them: what a snapshot remembers of its stage, who reads it, and what may change."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from workplace import Workplace

import dreamlm
from dreamlm.checkpoints.snapshot import read_snapshot
from dreamlm.core.errors import PresetError, ResumeMismatch
from dreamlm.core.modules.stage import Stage
from dreamlm.core.training.curriculum import DREAMING
from dreamlm.presets.resolve import resolve_values
from dreamlm.wiring.evaluation import EvaluationRequest, evaluate
from dreamlm.wiring.loading import Loaded, model_like

Trained = Callable[..., Path]
FIRST = {"dream_length": 2, "num_dream_sequences": 1, "graph_reasoning_hops": 1}
SECOND = {"dream_length": 3, "num_dream_sequences": 2, "graph_reasoning_hops": 2}
THIRD = {"dream_length": 5, "num_dream_sequences": 3, "graph_reasoning_hops": 3}
STAGES = [{"name": "first", "steps": 4, **FIRST}, {"name": "second", "steps": 9, **SECOND}]
"""Of runs of 6 steps: the edge is behind step 4."""
DREAMS = {
    "type": "dreaming",
    "num_experts": 2,
    "moe_top_k": 1,
    "expert_num_layers": 1,
    "expert_num_heads": 2,
    "graph_num_heads": 2,
}
MODEL = (f"model.modules={json.dumps([DREAMS])}", "model.segment_length=8")
STAGED = (*MODEL, f"train.curriculum={json.dumps(STAGES)}", "train.save_interval_steps=1")
MORE = "train.train_tokens=2048"


def dreams(loaded: Loaded) -> tuple[int, int, int]:
    """Steps, dreams and hops of the live module."""
    (module,) = loaded.model.cognition
    return module.length, module.num_dreams, module.hops  # type: ignore[return-value]


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


def test_a_snapshot_runs_in_its_own_stage_whoever_loads_it(trained: Trained) -> None:
    checkpoints = trained(*STAGED) / "checkpoints"
    for name, expected in (("lm_prev2", FIRST), ("lm_prev", SECOND), ("lm_current", SECOND)):
        folder, stage = checkpoints / name, Stage(**expected)
        loaded = dreamlm.load(folder, device="cpu")
        assert loaded.model.config.stage == loaded.preset.model.stage == stage
        assert dreams(loaded) == tuple(expected.values())
        transformers = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False).eval()
        tokens = torch.randint(0, 250, (2, 32), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            ours = loaded.model(tokens, torch.zeros_like(tokens), loaded.model.start(2), boundaries=False)
            logits = loaded.model.logits(ours.hidden)
            torch.testing.assert_close(transformers(tokens).logits, logits, rtol=0, atol=1e-5)
            loaded.model.enter(Stage(**THIRD))
            others = loaded.model(tokens, torch.zeros_like(tokens), loaded.model.start(2), boundaries=False)
        assert not torch.allclose(loaded.model.logits(others.hidden), logits, atol=1e-4)


def test_the_preset_in_a_snapshot_is_what_the_user_asked_for(trained: Trained) -> None:
    """So that a resume finds it unchanged in every stage; the configuration alone tells of the stage."""
    checkpoints = trained(*STAGED) / "checkpoints"
    first, second = (read_snapshot(checkpoints / name) for name in ("lm_prev2", "lm_current"))
    assert first.preset == second.preset
    assert first.preset["model"]["stage"] is None
    assert [one["name"] for one in first.preset["train"]["curriculum"]] == ["first", "second"]
    assert first.config["stage"] == {**FIRST, "images": False}
    assert {**first.config, "stage": second.config["stage"]} == second.config
    assert "stage" not in "".join(second.state)


def test_a_model_to_be_trained_further_otherwise_begins_in_its_stage(trained: Trained) -> None:
    """As reinforcement learning and reward models build it."""
    snapshot = read_snapshot(trained(*STAGED) / "checkpoints" / "lm_prev2")
    assert model_like(resolve_values(snapshot.preset, ""), snapshot).config.stage == Stage(**FIRST)


def test_a_run_goes_on_in_its_stages(place: Workplace, trained: Trained) -> None:
    run = trained(*STAGED)
    more = place.train(run, *STAGED, MORE)
    assert more.ends[0].step == 8
    assert [event["stage"]["number"] for event in events(run, "step")] == [1] * 4 + [2] * 4
    assert events(run, "start")[-1]["stage"]["name"] == "second"
    report = json.loads((run / "training_report.json").read_text())
    assert [(one["name"], one["last_step"]) for one in report["stages"]] == [("first", 4), ("second", 8)]


def test_another_curriculum_changes_how_training_goes_on(place: Workplace, trained: Trained) -> None:
    run = trained(*STAGED)
    without = (*MODEL, "train.save_interval_steps=1", MORE)
    with pytest.raises(ResumeMismatch, match=r"train\.curriculum") as caught:
        place.train(run, *without)
    assert caught.value.hint == "--allow-changes continues with the new values"
    place.train(run, *without, allow_changes=True)
    loaded = dreamlm.load(run, device="cpu")
    assert loaded.model.config.stage is None
    assert dreams(loaded) == (5, 4, 3)


def test_an_evaluation_finds_the_loss_that_training_found(trained: Trained) -> None:
    """Both in the stage of the last step."""
    run = trained(*STAGED)
    during = events(run, "evaluation")[-1]
    assert during["stage"] == {"name": "second", "number": 2, "of": 2, "last_step": None}
    report = evaluate(EvaluationRequest(run, device="cpu"), lambda doing, done, total: None).perplexity
    assert report.cross_entropy == pytest.approx(during["nll"], rel=1e-6)


def test_a_run_that_starts_from_a_snapshot_starts_in_its_stage(place: Workplace, trained: Trained) -> None:
    origin = trained(*STAGED) / "checkpoints" / "lm_prev2"
    values = json.loads((place.folder / "small.json").read_text())
    del values["tokenizer"]
    values["model"] = {"init_from": str(origin)}
    (place.folder / "small.json").write_text(json.dumps(values))
    place.train(place.folder / "next")
    assert dreams(dreamlm.load(place.folder / "next", device="cpu")) == tuple(FIRST.values())
    place.train(place.folder / "staged", "train.curriculum=" + json.dumps(STAGES[1:]))
    assert dreams(dreamlm.load(place.folder / "staged", device="cpu")) == tuple(SECOND.values())


def test_the_curriculum_by_its_name_stands_whole_in_the_preset(place: Workplace) -> None:
    preset = place.preset(*MODEL, "train.curriculum=dreaming")
    assert preset.train.curriculum == DREAMING
    assert place.preset(*MODEL, "train.curriculum=dreaming", "train.curriculum=null").train.curriculum == ()


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["train.curriculum=dreaming"], "train.curriculum: changes nothing in this model"),
        ([*MODEL, "train.curriculum=dreams"], 'train.curriculum: must be "dreaming" or a list of stages'),
        (
            [*MODEL, f"train.curriculum={json.dumps([STAGES[0] | {'dream_length': 9}])}"],
            "train.curriculum.0.dream_length: dreaming has places for at most 8; raise its max_dream_length to 9",
        ),
        (
            [*MODEL, f"train.curriculum={json.dumps([STAGES[0], STAGES[0]])}"],
            "train.curriculum: several stages are called first; give each a name of its own",
        ),
        (
            [*MODEL, f"train.curriculum={json.dumps([{'name': 'first', 'steps': 4, **FIRST, 'hops': 3}])}"],
            "train.curriculum.0.hops: unknown key",
        ),
        ([*MODEL, 'model.stage={"dream_length": 9, "num_dream_sequences": 1, "graph_reasoning_hops": 1}'], "at most 8"),
    ],
)
def test_a_mistake_is_named_where_it_stands(place: Workplace, sets: list[str], said: str) -> None:
    with pytest.raises(PresetError) as caught:
        place.preset(*sets)
    assert said in str(caught.value)

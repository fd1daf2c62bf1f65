"""A reward model that starts from a model folder of transformers."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from judges import write_pairs
from stock_models import save_stock
from workplace import Witness

from dreamlm.checkpoints.convert.stock import read_weights
from dreamlm.checkpoints.snapshot import read_snapshot
from dreamlm.core.errors import ResumeMismatch, UserMistake
from dreamlm.core.evaluation.preference import PreferenceReport
from dreamlm.core.rl.answer import Answer, Prompt
from dreamlm.core.training.hooks import StepReport
from dreamlm.presets.resolve import resolve
from dreamlm.wiring.loading import load
from dreamlm.wiring.reward import load_reward_model
from dreamlm.wiring.reward_start import RewardRequest
from dreamlm.wiring.reward_training import train_reward

TRAINING = {"optimizer": {"learning_rate": 5e-3}, "precision": "fp32", "save_interval_steps": 2}


class Cut(Witness):
    """Ends the run in a hook."""

    def on_step(self, report: StepReport) -> None:
        if report.step == 5:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two stock models, and a preset that says nothing of models."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("stock")
    for kind in ("llama", "qwen3"):
        save_stock(folder / kind, kind)
    write_pairs(folder / "pairs.jsonl", 120, reason=True)
    rl = {"pairs": {"source": {"type": "jsonl", "paths": "pairs.jsonl"}}, "reward_model": TRAINING}
    data = {"sources": [{"type": "jsonl", "paths": "text.jsonl"}]}  # which is not there: no text is read
    (folder / "judge.json").write_text(json.dumps({"data": data, "rl": rl}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DREAMLM_HOME", str(folder / "home"))
        yield folder


def fit(folder: Path, run: str, origin: str = "llama", hook: Witness | None = None, **given: Any) -> PreferenceReport:
    sets = given.get("sets", ())
    preset = given.get("preset", resolve(folder / "judge.json", sets))
    return train_reward(RewardRequest(folder / origin, folder / run, preset, sets), hook or Witness())


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_a_stock_model_becomes_a_reward_model(folder: Path, kind: str) -> None:
    report = fit(folder, f"judge-{kind}", kind, sets=("model.seq_length=48",))
    assert report.accuracy > 0.9
    judge = load_reward_model(folder / f"judge-{kind}", "cpu")
    assert judge.model.window == 48
    cat, dog = (Answer(Prompt("the dog saw 7"), (0,), (1,), f"the {word} saw", True) for word in ("cat", "dog"))
    assert judge.model.score([cat]) > judge.model.score([dog])
    kept = load(folder / f"judge-{kind}" / "origin", "cpu")
    stock = read_weights(folder / kind, kept.model.config)
    found = dict(kept.model.named_parameters())
    assert [name for name, weight in stock.items() if not torch.equal(found[name][: len(weight)], weight)] == []


def test_a_run_that_was_cut_goes_on_the_same_although_the_stock_model_has_gone(folder: Path) -> None:
    shutil.copytree(folder / "llama", folder / "passing")
    fit(folder, "whole", "passing")
    with pytest.raises(KeyboardInterrupt):
        fit(folder, "cut", "passing", Cut())
    shutil.rmtree(folder / "passing")
    fit(folder, "cut", "passing")
    whole, cut = (read_snapshot(folder / run / "checkpoints" / "lm_current") for run in ("whole", "cut"))
    assert whole.state == cut.state
    ours, theirs = ({**one.model, **one.heads, **one.optimizer} for one in (cut, whole))
    assert ours.keys() == theirs.keys()
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []


def test_a_run_that_was_cut_does_not_go_on_with_another_model(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(folder, "half", hook=Cut())
    with pytest.raises(ResumeMismatch, match="began with other weights") as caught:
        fit(folder, "half", "qwen3")
    assert caught.value.where == str(folder / "qwen3")
    assert str(folder / "half" / "origin") in caught.value.hint
    fit(folder, "half", "half/origin")


def test_what_a_stock_model_lacks_is_asked_for_by_the_option_that_gives_it(folder: Path) -> None:
    with pytest.raises(UserMistake, match="has no preset inside") as caught:
        fit(folder, "none", preset=None)
    assert "--preset NAME|FILE" in caught.value.hint
    assert "rl.pairs" in caught.value.hint
    with pytest.raises(UserMistake, match="which preferences") as caught:
        fit(folder, "none", sets=("rl.pairs=null",))
    assert caught.value.where == "rl.pairs"
    for absent, what in (("nowhere", "does not exist"), ("home", "no snapshot here")):
        (folder / "home").mkdir(exist_ok=True)
        with pytest.raises(UserMistake, match=what) as caught:
            fit(folder, "none", absent)
        assert "--from DIR" in caught.value.hint
        assert "transformers" in caught.value.hint
    assert not (folder / "none" / "checkpoints").exists()
    assert not (folder / "none" / "origin").exists()

"""`dreamlm rl reward` as a shell sees it."""

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dreamlm.cli.app import run as run_command
from dreamlm.core.training.hooks import StepReport

PRESET = {
    "name": "judge",
    "model": {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "seq_length": 16},
    "tokenizer": {"type": "bpe", "vocab_size": 280},
    "data": {"sources": [{"type": "jsonl", "paths": "fables.jsonl"}], "validation_fraction": 0.1, "min_text_length": 1},
    "train": {"train_tokens": 256, "per_gpu_batch_size": 8, "precision": "fp32"},
    "generate": {"max_new_tokens": 2},
    "rl": {
        "pairs": {"source": {"type": "jsonl", "paths": "pairs.jsonl"}, "validation_fraction": 0.3},
        "reward_model": {"epochs": 1, "precision": "fp32", "optimizer": {"learning_rate": 0.01}},
    },
}
ANIMALS = ("fox", "crow", "lion", "mouse", "hare", "tortoise")
REWARD = ("rl", "reward", "--from", "runs/judge", "--run")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with preferences and a run that names them."""
    folder = tmp_path_factory.mktemp("judge")
    fables = [{"text": f"The {one} met a {other}."} for one in ANIMALS for other in ANIMALS]
    pairs = [
        {"prompt": f"{one} {n}", "chosen": "it met a fox", "rejected": f"it met a {one}"}
        for one in ANIMALS[1:]
        for n in range(20)
    ]
    for name, records in (("fables", fables), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(record) for record in records))
    (folder / "judge.json").write_text(json.dumps(PRESET))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DREAMLM_HOME", str(folder / "home"))
        assert run_command(["train", "--preset", "judge.json"]) == 0
        yield folder


def test_the_result_is_one_line_and_all_else_is_on_the_side(cli: Any, place: Path) -> None:
    outcome = cli(*REWARD, "runs/one")
    assert outcome.code == 0
    assert re.fullmatch(
        r"accuracy \d+\.\d% \(\d+\.\d% to \d+\.\d%\) on \d+ held-out pairs, "
        r"calibration error 0\.\d{3}; the longer answer: \d+\.\d%\n",
        outcome.out,
    )
    assert "pairs to train on" in outcome.err
    assert "held-out accuracy" in outcome.err
    again = cli(*REWARD, "runs/one")
    assert (again.code, again.out) == (0, outcome.out)
    assert "this reward model is finished already" in again.err
    assert cli("ckpt", "verify", "--run", "runs/one").code == 0
    assert "best" in cli("ckpt", "list", "--run", "runs/one").out


def test_json_is_one_document(cli: Any, place: Path) -> None:
    outcome = cli(*REWARD, "runs/json", "--json", "--preset", "judge.json", "--seed", "3")
    report = json.loads(outcome.out)
    assert (report["run"], report["above_chance"]) == ("runs/json", report["accuracy_interval"]["low"] > 0.5)
    assert sum(one["pairs"] for one in report["bins"]) == report["pairs"]
    kept = json.loads(Path("runs/json/preset.json").read_text())
    assert kept["rl"]["reward_model"]["seed"] == 3


def test_pairs_may_be_named_on_the_command_line(cli: Any, place: Path) -> None:
    source = (
        'rl.pairs={"source": {"type": "jsonl", "paths": "pairs.jsonl"}, "chosen": "{rejected}", "rejected": "{chosen}"}'
    )
    outcome = cli(*REWARD, "runs/named", "--set", source)
    assert outcome.code == 0
    kept = json.loads(Path("runs/named/preset.json").read_text())["rl"]["pairs"]
    assert (kept["chosen"], kept["source"]["paths"]) == ("{rejected}", [str(place / "pairs.jsonl")])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--run", "runs/x"), "error: which model to start from?\n"),
        (("--from", "runs/judge"), "error: where should the reward model go?\n"),
        (("--from", "runs/absent", "--run", "runs/x"), "error: this folder does not exist\n"),
        (("--from", "runs/judge", "--run", "runs/x", "--set", "rl.reward_model.epochs=0"), "must be at least 1"),
        (("--from", "runs/judge", "--run", "runs/x", "--set", "rl.pairs=null"), "error: which preferences?\n"),
        (("--from", "runs/judge", "--run", "runs/x", "--set", "rl.pairs.chosen={good}"), "no field 'good'"),
        (("--from", "runs/judge", "--run", "runs/judge"), "error: this is no reward model"),
    ],
)
def test_a_mistake_is_said_with_what_helps(cli: Any, place: Path, arguments: tuple[str, ...], complaint: str) -> None:
    outcome = cli("rl", "reward", *arguments)
    assert (outcome.code in (1, 2), outcome.out) == (True, "")
    assert complaint in outcome.err
    assert "\nhelp: " in outcome.err
    assert not Path("runs/x/checkpoints").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_exits_with_its_number(
    cli: Any, place: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    from dreamlm.cli.live_reward import LiveReward

    draw = LiveReward.on_step

    def stop(hook: LiveReward, report: StepReport) -> None:
        draw(hook, report)
        if report.step == 2:
            signal.raise_signal(number)

    run = f"runs/stopped-{number}"
    with monkeypatch.context() as patch:
        patch.setattr(LiveReward, "on_step", stop)
        outcome = cli(*REWARD, run)
    assert (outcome.code, outcome.out) == (128 + number, "")
    assert "stopped at step 2; a snapshot was saved" in outcome.err
    assert cli(*REWARD, run).out == cli(*REWARD, "runs/unbroken").out


def test_a_reward_model_writes_no_text(cli: Any, place: Path) -> None:
    cli(*REWARD, "runs/one")
    outcome = cli("generate", "--run", "runs/one", "x")
    assert (outcome.code, outcome.out) == (1, "")
    assert "a reward model judges texts and writes none" in outcome.err

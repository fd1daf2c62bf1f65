"""A run of `dreamlm rl reward`: what it leaves, how it goes on, and the door that it has to pass."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from judges import Place, furnish
from safetensors.numpy import load_file
from workplace import Cut, Witness, Workplace

from dreamlm.checkpoints.files import DiskFiles
from dreamlm.checkpoints.inspect import verify
from dreamlm.checkpoints.manifest import read_manifest
from dreamlm.checkpoints.snapshot import read_snapshot, write_snapshot
from dreamlm.checkpoints.store import Store
from dreamlm.core.errors import CheckpointError, DataError, NotAboveChance, OutOfSpace, ResumeMismatch, UserMistake
from dreamlm.core.rl.answer import Answer, Prompt
from dreamlm.core.rl.reward_state import RewardState
from dreamlm.presets.resolve import resolve
from dreamlm.wiring.loading import load
from dreamlm.wiring.reward import load_reward_model
from dreamlm.wiring.reward_start import RewardRequest, start_of
from dreamlm.wiring.reward_training import train_reward

WORKER = Path(__file__).with_name("reward_worker.py")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("reward")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DREAMLM_HOME", str(folder / "home"))
        yield furnish(folder)


@pytest.fixture(scope="module")
def easy(place: Place) -> Path:
    place.train("easy")
    return place.folder / "easy"


@pytest.fixture(scope="module")
def coin(place: Place) -> Path:
    place.train("coin", pairs="coin")
    return place.folder / "coin"


def test_a_run_leaves_what_others_read(easy: Path) -> None:
    assert {path.name for path in easy.iterdir()} >= {
        "preset.json", "metrics.jsonl", "tensorboard", "reward_report.json", "checkpoints",
    }  # fmt: skip
    snapshot = easy / "checkpoints" / "lm_current"
    verify(snapshot)
    manifest = json.loads((snapshot / "manifest.json").read_text())
    state = json.loads((snapshot / "state.json").read_text())
    assert (manifest["record"]["kind"], state["kind"]) == ("reward", "reward")
    assert state["report"]["above_chance"]
    assert state["report"].keys() >= {"accuracy", "accuracy_interval", "pairs"}
    best = Store(easy).best()
    assert best is not None
    assert best.record.validation_loss == json.loads((easy / "reward_report.json").read_text())["loss"]
    assert set(load_file(snapshot / "heads.safetensors")) == {
        "heads.components.weight", "heads.mixture", "heads.confidence.weight", "heads.confidence.bias",
    }  # fmt: skip
    events = [json.loads(line)["event"] for line in (easy / "metrics.jsonl").read_text().splitlines()]
    assert events.count("preference") == 2
    assert (events[0], events[-1]) == ("start", "end")


def test_an_easy_preference_passes_the_door(easy: Path) -> None:
    reward = load_reward_model(easy, "cpu")
    assert reward.report.accuracy > 0.9
    assert reward.report.accuracy_interval.low > 0.5
    cat, dog = (Answer(Prompt("the dog saw 7"), (0,), (1,), f"the {word} saw", True) for word in ("cat", "dog"))
    first, second = reward.score([cat, dog])
    assert 1 > first > 0 > second > -1
    assert reward.model.score([cat])[0] > reward.model.score([dog])[0]
    assert not reward.model.training


def test_the_weights_that_pass_the_door_are_those_that_were_measured(easy: Path, place: Place) -> None:
    reward = load_reward_model(easy)
    best = load_file(reward.folder / "model.safetensors")
    for name, weight in reward.model.trunk.named_parameters():
        assert np.array_equal(weight.detach().numpy(), best[name])


def test_a_model_that_is_not_above_chance_is_refused_with_its_figures(coin: Path) -> None:
    report = json.loads((coin / "reward_report.json").read_text())
    with pytest.raises(NotAboveChance) as caught:
        load_reward_model(coin)
    assert (caught.value.accuracy, caught.value.pairs) == (report["accuracy"], report["pairs"])
    interval = report["accuracy_interval"]
    assert f"{report['accuracy']:.1%} of {report['pairs']}" in caught.value.what
    assert f"{interval['low']:.1%} to {interval['high']:.1%}" in caught.value.what
    assert caught.value.exit_code == 2


def test_the_door_knows_a_model_that_was_never_measured_and_one_of_another_kind(place: Place, easy: Path) -> None:
    with pytest.raises(UserMistake, match="does not exist"):
        load_reward_model(place.folder / "absent")
    with pytest.raises(CheckpointError, match="this is no reward model"):
        load_reward_model(place.origin)
    with pytest.raises(CheckpointError, match="of kind reward") as caught:
        load(easy)
    assert "judges texts" in caught.value.hint
    snapshots = {info.record.step: info.path for info in Store(easy).snapshots() if info.record.validation_loss is None}
    for path in snapshots.values():
        with pytest.raises(UserMistake, match="was not measured"):
            load_reward_model(path)
    assert snapshots


def test_a_finished_run_says_so_and_stays_as_it_is(place: Place, easy: Path) -> None:
    before = (easy / "checkpoints" / "lm_current" / "manifest.json").read_bytes()
    (easy / "reward_report.json").unlink()
    witness = Witness()
    report = place.train("easy", witness=witness)
    assert [end.reason for end in witness.ends] == ["already_finished"]
    assert "finished already" in witness.notices[-1]
    assert (easy / "checkpoints" / "lm_current" / "manifest.json").read_bytes() == before
    assert json.loads((easy / "reward_report.json").read_text())["accuracy"] == report.accuracy


def assert_same_run(run: Path, whole: Path) -> None:
    for name in ("model", "heads", "optimizer"):
        ours, theirs = (load_file(one / "checkpoints" / "lm_current" / f"{name}.safetensors") for one in (run, whole))
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[key], theirs[key]) for key in theirs), name
    states = [json.loads((one / "checkpoints" / "lm_current" / "state.json").read_text()) for one in (run, whole)]
    assert states[0] == states[1]
    steps = [
        [
            json.loads(line)["nll"]
            for line in (one / "metrics.jsonl").read_text().splitlines()
            if '"step", "step"' in line
        ]
        for one in (run, whole)
    ]
    assert steps[0] == steps[1]
    assert steps[0]


def test_a_run_cut_again_and_again_ends_like_one_that_never_stopped(place: Place, easy: Path) -> None:
    for step in (1, 2, 5, 9, 14):
        with pytest.raises(KeyboardInterrupt):
            place.train("cut", witness=Cut(step))
    place.train("cut")
    assert_same_run(place.folder / "cut", easy)


def test_sigkill_changes_nothing(place: Place, easy: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = place.folder / "killed"
    arguments = [sys.executable, str(WORKER), str(place.origin), str(run), str(place.folder / "easy.json")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert next(line for line in process.stdout if line.strip() == "7")
        process.kill()
    assert process.returncode == -9
    place.train("killed")
    assert_same_run(run, easy)


def test_other_settings_pairs_or_weights_are_refused_by_name(place: Place, easy: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        place.train("half", witness=Cut(3))
    with pytest.raises(ResumeMismatch, match=r"rl\.reward_model\.epochs: the run has 2, the request 3"):
        place.train("half", "rl.reward_model.epochs=3")
    with pytest.raises(ResumeMismatch, match="other preference pairs"):
        place.train("half", "rl.pairs.validation_fraction=0.3")
    request = RewardRequest(easy, place.folder / "half", resolve(place.folder / "easy.json"))
    with pytest.raises(ResumeMismatch, match="other weights"):
        train_reward(request, Witness())
    place.train("half", "rl.reward_model.save_interval_steps=1", "rl.reward_model.retry_seconds=1")
    ours = load_file(place.folder / "half" / "checkpoints" / "lm_current" / "heads.safetensors")
    theirs = load_file(easy / "checkpoints" / "lm_current" / "heads.safetensors")
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def test_the_model_is_the_origins_and_what_a_preset_says_otherwise_is_told(place: Place) -> None:
    witness = Witness()
    sets = ("model.hidden_size=64", "rl.reward_model.epochs=1", "rl.reward_model.component_weight=0")
    place.train("told", *sets, witness=witness)
    assert any("what preset easy says of them does not hold" in notice for notice in witness.notices)
    assert json.loads((place.folder / "told" / "preset.json").read_text())["model"]["hidden_size"] == 32


def test_an_output_head_of_its_own_stays_as_it_was(place: Place) -> None:
    """No verdict depends on it: it has no optimizer state, and is in the snapshot all the same."""
    origin = place.folder / "untied"
    Workplace(place.folder).train(origin, "model.tie_embeddings=false")
    snapshots = []
    for name, cut in (("untied-whole", None), ("untied-cut", 5)):
        request = RewardRequest(origin, place.folder / name, resolve(place.folder / "easy.json"))
        if cut:
            with pytest.raises(KeyboardInterrupt):
                train_reward(request, Cut(cut))
        train_reward(request, Witness())
        snapshots.append(read_snapshot(place.folder / name / "checkpoints" / "lm_current"))
    before = read_snapshot(origin / "checkpoints" / "lm_current").model
    for snapshot in snapshots:
        assert snapshot.model.keys() == before.keys()
        assert torch.equal(snapshot.model["head.weight"], before["head.weight"])
        assert not [name for name in snapshot.optimizer if name.startswith("head.weight")]
    whole, again = ({**one.model, **one.heads, **one.optimizer} for one in snapshots)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_what_memory_allowed_is_remembered_until_another_size_is_asked_for(place: Place) -> None:
    run = place.folder / "small-memory"
    with pytest.raises(KeyboardInterrupt):
        place.train("small-memory", witness=Cut(3))
    store, preset = Store(run), place.folder / "easy.json"
    snapshot = read_snapshot(run / "checkpoints" / "lm_current")
    state = replace(RewardState.from_json(snapshot.state), micro_pairs=2)
    record = read_manifest(run / "checkpoints" / "lm_current").record
    with store.lock():
        changed = replace(snapshot, state=state.to_json())
        store.commit(record, lambda folder: write_snapshot(folder, changed), expected_bytes=snapshot.size_bytes)
    for sets, micro_pairs in (
        ((), 2),
        (("rl.reward_model.zero_stage=3", "rl.reward_model.backend=torch"), 2),
        (("rl.reward_model.pairs_per_micro_batch=4",), 4),
    ):
        start = start_of(RewardRequest(place.origin, run, resolve(preset, sets)), store, Witness())
        assert start.micro_pairs == micro_pairs


def test_a_finished_run_needs_the_model_it_began_with_no_more(place: Place, easy: Path) -> None:
    witness = Witness()
    train_reward(RewardRequest(place.folder / "gone", easy, resolve(place.folder / "easy.json")), witness)
    assert [end.reason for end in witness.ends] == ["already_finished"]


def test_without_pairs_the_question_is_which(place: Place) -> None:
    with pytest.raises(UserMistake, match="which preferences") as caught:
        train_reward(RewardRequest(place.origin, place.folder / "none"), Witness())
    assert caught.value.where == "rl.pairs"
    assert not (place.folder / "none" / "checkpoints").exists()


def test_a_run_that_the_disk_cannot_hold_is_refused_before_it_begins(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DiskFiles, "free_bytes", lambda files, path: 1000)
    with pytest.raises(OutOfSpace):
        place.train("full")
    assert not (place.folder / "full" / "checkpoints").exists()


def test_texts_that_are_too_long_are_counted(place: Place) -> None:
    witness = Witness()
    template = "rl.pairs.prompt=" + "the dog saw the cat " * 9 + "{prompt}"
    place.train("long", template, "rl.reward_model.epochs=1", witness=witness)
    assert "300 of 300 texts lost their oldest tokens: the model reads 32" in witness.notices


def test_pairs_without_prompts_are_learned_as_well(place: Place) -> None:
    report = place.train("bare", "rl.pairs.prompt=")
    assert report.accuracy > 0.9


def test_a_window_that_holds_no_difference_is_said_before_training(place: Place) -> None:
    end = "rl.pairs.{0}={{{0}}}" + " the dog saw the cat" * 9
    with pytest.raises(DataError, match="within the 32 tokens"):
        place.train("same", end.format("chosen"), end.format("rejected"), "rl.reward_model.component_weight=0")
    assert not (place.folder / "same" / "checkpoints").exists()

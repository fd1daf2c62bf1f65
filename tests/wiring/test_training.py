"""What a run folder holds, and what may change between two visits to it."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from workplace import Workplace, write_text

from dreamlm.checkpoints.files import DiskFiles
from dreamlm.core.errors import AllSourcesFailed, CheckpointError, OutOfSpace, ResumeMismatch, UserMistake
from dreamlm.core.training.backend.backend import Measured, WindowBatch
from dreamlm.core.training.backend.single import SingleProcess
from dreamlm.data_sources.progress import Silence
from dreamlm.wiring.corpora import prepare_corpus

Trained = Callable[..., Path]


def state_of(run: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((run / "checkpoints" / "lm_current" / "state.json").read_text())
    return state


def report_of(run: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((run / "training_report.json").read_text())
    return report


def test_a_run_leaves_everything_on_disk(trained: Trained) -> None:
    run = trained()
    assert {path.name for path in run.iterdir()} >= {
        "preset.json",
        "metrics.jsonl",
        "tensorboard",
        "training_report.json",
        "checkpoints",
    }
    assert json.loads((run / "training_report.json").read_text())["end"]["reason"] == "finished"
    assert {path.name for path in (run / "checkpoints" / "lm_current").iterdir()} == {
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
        "config.json",
        "preset.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "manifest.json",
    }


def test_a_finished_run_says_so(place: Workplace, trained: Trained) -> None:
    again = place.train(trained())
    assert [end.reason for end in again.ends] == ["already_finished"]
    assert "ask for more with train.train_tokens" in again.notices[-1]


def test_asking_for_more_tokens_continues(place: Workplace, trained: Trained) -> None:
    run = trained()
    more = place.train(run, "train.train_tokens=3072")
    assert (more.ends[0].reason, more.ends[0].step) == ("finished", 12)


def test_without_a_preset_the_run_continues_with_its_own(place: Workplace, trained: Trained) -> None:
    run = trained()
    more = place.train(run, "train.train_tokens=2048", preset=False)
    assert more.ends[0].step == 8
    assert json.loads((run / "preset.json").read_text())["train"]["train_tokens"] == 2048


def test_what_cannot_train_is_said_before_a_corpus_is_prepared(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dreamlm.wiring.training.prepare_corpus", lambda *given: pytest.fail("too late"))
    with pytest.raises(UserMistake, match="muon needs it whole"):
        place.train(place.folder / "divided", "train.backend=deepspeed", "train.optimizer.type=muon")


def test_an_empty_folder_has_nothing_to_continue(place: Workplace) -> None:
    with pytest.raises(UserMistake, match="no run to continue"):
        place.train(place.folder / "nothing", preset=False)


@pytest.mark.parametrize("change", ["train.validation_tokens=40", "eval.bound_samples=8"])
def test_what_the_best_snapshot_is_chosen_by_stays(place: Workplace, trained: Trained, change: str) -> None:
    run = trained()
    with pytest.raises(ResumeMismatch, match=change.split("=")[0]) as caught:
        place.train(run, change, "train.train_tokens=9999", allow_changes=True)
    assert "dreamlm eval" in caught.value.hint
    assert place.train(run, "eval.rows=3", "train.train_tokens=2048").ends[0].step == 8


@pytest.mark.parametrize(
    "change",
    ["model.hidden_size=64", "train.seed=7", "train.accumulation_steps=2", "data.packing=concat"],
)
def test_another_model_seed_batch_or_order_is_refused_by_name(place: Workplace, trained: Trained, change: str) -> None:
    run = trained()
    with pytest.raises(ResumeMismatch) as caught:
        place.train(run, change, "train.train_tokens=9999", allow_changes=True)
    assert change.split("=")[0].split(".")[1] in caught.value.what
    assert "--run OTHER" in caught.value.hint


def test_a_safe_change_needs_the_named_override(place: Workplace, trained: Trained) -> None:
    run = trained()
    change = ("train.optimizer.learning_rate=0.0001", "train.train_tokens=2048")
    with pytest.raises(ResumeMismatch, match=r"train\.optimizer\.learning_rate: the run has 0\.001") as caught:
        place.train(run, *change)
    assert caught.value.hint == "--allow-changes continues with the new values"
    more = place.train(run, *change, allow_changes=True)
    assert more.ends[0].step == 8
    assert any("train.optimizer.learning_rate" in notice for notice in more.notices)
    rates = [json.loads(line).get("learning_rate") for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [rate for rate in rates if rate is not None][-1] == pytest.approx(0.0001 * 0.1)


def test_a_run_goes_on_with_its_corpus_when_the_inputs_have_changed(place: Workplace, trained: Trained) -> None:
    run = trained()
    changed = Path(shutil.copytree(run, place.folder / "changed"))
    straight = place.train(run, "train.train_tokens=2048").ends
    write_text(place.folder / "text.jsonl", documents=200, seed=1)
    more = place.train(changed, "train.train_tokens=2048")
    assert [replace(end, seconds=0.0) for end in more.ends] == [replace(end, seconds=0.0) for end in straight]


def test_another_corpus_is_refused(place: Workplace, trained: Trained) -> None:
    run = trained()
    write_text(place.folder / "text.jsonl", documents=200, seed=1)
    prepare_corpus(place.preset(), Silence(), place.folder / "other")
    with pytest.raises(ResumeMismatch, match="corpus with fingerprint"):
        place.train(run, "train.train_tokens=9999", corpus=place.folder / "other")


def test_a_run_whose_snapshots_are_gone_is_not_started_over(place: Workplace, trained: Trained) -> None:
    run = trained()
    (run / "checkpoints").rename(place.folder / "away")
    (run / "checkpoints").mkdir()
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    with pytest.raises(CheckpointError, match="this run had reached step 6, and its snapshots are not here"):
        place.train(run)
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def test_the_micro_batch_may_change_when_the_step_stays(place: Workplace, trained: Trained) -> None:
    run = trained()
    half = ("train.per_gpu_batch_size=4", "train.accumulation_steps=2", "train.train_tokens=2048")
    assert place.train(run, *half).ends[0].step == 8


def test_a_larger_micro_batch_is_used_when_it_is_asked_for(place: Workplace, trained: Trained) -> None:
    run = trained("train.per_gpu_batch_size=4", "train.accumulation_steps=2")
    place.train(run, "train.train_tokens=2048")
    assert state_of(run)["micro_rows"] == 8


def test_a_micro_batch_that_memory_halved_stays_so(
    place: Workplace, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = SingleProcess.forward_backward

    def cramped(backend: SingleProcess, micro_batches: Sequence[WindowBatch]) -> Measured:
        if len(micro_batches[0].batch.tokens) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return compute(backend, micro_batches)

    with monkeypatch.context() as small:
        small.setattr(SingleProcess, "forward_backward", cramped)
        run = trained()
    again = place.train(run, "train.train_tokens=2048")
    assert state_of(run)["micro_rows"] == 4
    assert not any("out of memory" in notice for notice in again.notices)


def test_another_precision_is_used_when_it_was_allowed(place: Workplace, trained: Trained) -> None:
    run = trained()
    more = place.train(run, "train.precision=bf16", "train.train_tokens=2048", allow_changes=True)
    assert "continuing with a change: train.precision: the run has 'fp32', the request 'bf16'" in more.notices
    assert state_of(run)["precision"] == "bf16"


def test_the_report_of_a_continued_run_holds_its_earlier_evaluations(place: Workplace, trained: Trained) -> None:
    run = trained()
    place.train(run, "train.train_tokens=3072")
    assert [evaluation["step"] for evaluation in report_of(run)["evaluations"]] == [6, 12]


@pytest.mark.parametrize("left", ["nothing", "another end"])
def test_a_run_killed_before_its_report_gets_it_at_the_next_start(
    place: Workplace, trained: Trained, left: str
) -> None:
    run = trained()
    before = report_of(run)
    (run / "training_report.json").unlink()
    with (run / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"event": "end", "st')  # killed while writing
    if left == "another end":
        interrupted = before | {"end": before["end"] | {"reason": "interrupted", "step": 3}}
        (run / "training_report.json").write_text(json.dumps(interrupted))
    assert [end.reason for end in place.train(run).ends] == ["already_finished"]
    after = report_of(run)
    assert all(json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
    assert after["evaluations"] == before["evaluations"]
    for key in ("reason", "step", "tokens", "validation_nll", "bits_per_byte"):
        assert after["end"][key] == before["end"][key]


def test_a_finished_run_needs_no_data_to_say_so(place: Workplace, trained: Trained) -> None:
    run = trained()
    (place.folder / "text.jsonl").unlink()
    shutil.rmtree(place.folder / "home")
    assert [end.reason for end in place.train(run).ends] == ["already_finished"]


def test_a_fresh_run_that_the_disk_cannot_hold_is_refused_and_leaves_nothing(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DiskFiles, "free_bytes", lambda files, path: 1000)
    with pytest.raises(OutOfSpace):
        place.train(place.folder / "deep" / "run")
    assert not (place.folder / "deep").exists()


def test_a_run_without_a_document_leaves_nothing(place: Workplace) -> None:
    (place.folder / "text.jsonl").unlink()
    before = sorted(path.name for path in place.folder.iterdir())
    with pytest.raises(AllSourcesFailed):
        place.train(place.folder / "deep" / "run")
    assert sorted({path.name for path in place.folder.iterdir()} - {"home"}) == before
    assert not [path for path in (place.folder / "home").rglob("*") if path.is_file()]


def test_a_difference_inside_a_list_is_named_by_its_own_key(place: Workplace, trained: Trained) -> None:
    run = trained()
    with pytest.raises(ResumeMismatch) as caught:
        place.train(run, "data.sources.0.max_documents=7", "train.train_tokens=2048")
    assert "  data.sources.0.max_documents: the run has nothing, the request 7" in caught.value.what.splitlines()


def test_a_disk_without_room_for_a_snapshot_is_noticed_before_the_first_step(
    place: Workplace, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained()
    before = (run / "metrics.jsonl").read_bytes()
    monkeypatch.setattr(DiskFiles, "free_bytes", lambda files, path: 1000)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("training had begun"))
    with pytest.raises(OutOfSpace):
        place.train(run, "train.train_tokens=2048", "train.save_interval_steps=1", "train.retry_seconds=0.01")
    assert (run / "metrics.jsonl").read_bytes() == before

"""What a run writes down, and what a resume does to it."""

import errno
import itertools
import json
import math
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dreamlm.core.training import recorders, tensorboard
from dreamlm.core.training.hooks import EvaluationReport, RunEnd, RunStart, StagePlace, StepReport
from dreamlm.core.training.meters import Throughput
from dreamlm.core.training.recorders import MetricsFile, ReportFile, complete_report
from dreamlm.core.training.tensorboard import TensorBoard


def start(step: int) -> RunStart:
    return RunStart(step, 10, step * 64, 640, 64, 1000, 64, "fp32", "cpu", 1, step > 0)


def report(step: int, nll: float = 2.0) -> StepReport:
    return StepReport(step, step * 64, nll, {"token": nll}, 1.0, 1e-3, True, 1000.0, 0.5, 0.1)


END = RunEnd("finished", 3, 192, 1.5, 2.0, 2.1, 1.2)
EVALUATION = EvaluationReport(3, 192, 2.1, math.exp(2.1), 1.2, {"text": 2.1}, True)


def test_a_resumed_run_tells_one_story(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = MetricsFile(path)
    first.on_start(start(0))
    for step in (1, 2, 3):
        first.on_step(report(step))
    with path.open("a") as file:
        file.write('{"event": "step", "st')  # killed while writing
    second = MetricsFile(path)
    second.on_start(start(2))
    second.on_step(report(3, nll=1.5))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["event"], line["step"]) for line in lines] == [
        ("start", 0), ("step", 1), ("step", 2), ("start", 2), ("step", 3),
    ]  # fmt: skip
    assert lines[-1]["nll"] == 1.5


def test_steps_that_a_power_cut_took_are_said_to_be_missing(tmp_path: Path) -> None:
    path, notices = tmp_path / "metrics.jsonl", list[str]()
    first = MetricsFile(path)
    first.on_start(start(0))
    first.on_step(report(1))
    for resumed in (1, 5):
        MetricsFile(path, notices.append).on_start(start(resumed))
    assert notices == [f"{path}: steps 2 to 5 are missing, and stay so"]
    MetricsFile(tmp_path / "none.jsonl", notices.append).on_start(start(5))
    assert len(notices) == 1


def test_what_a_snapshot_is_held_against_is_on_the_device_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(recorders.os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.on_step(report(1))
    metrics.on_saving(1)
    assert synced == [(tmp_path / "metrics.jsonl").stat().st_size]


def test_lines_that_waited_for_a_full_disk_are_on_the_device_before_a_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.symlink_to("/dev/full")
    metrics = MetricsFile(path)
    metrics.on_step(report(1))
    path.unlink()
    metrics.on_saving(1)
    assert metrics.last_step == 1


def test_a_file_with_nothing_to_leave_out_is_not_written_anew(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.on_step(report(1))
    before = (tmp_path / "metrics.jsonl").stat().st_ino
    assert metrics.keep_until(1) == 1
    assert (tmp_path / "metrics.jsonl").stat().st_ino == before
    assert metrics.keep_until(0) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_finished_run_loses_what_was_told_past_its_end(tmp_path: Path) -> None:
    """It asked for more, and was killed before a snapshot of that."""
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    written = ReportFile(tmp_path / "report.json", tmp_path / "metrics.jsonl")
    for hook in (metrics, written):
        hook.on_end(END)
    before = (tmp_path / "report.json").read_bytes()
    metrics.on_step(report(4))
    assert metrics.last_step == 4
    complete_report(metrics, written, END)
    assert metrics.last_step == 3
    assert (tmp_path / "report.json").read_bytes() == before


@pytest.mark.parametrize(
    "damage", [b"\x00" * 40, b'{"event": "step", "st\xff\xfe', b"[1, 2]", b'{"event": "step"}', b""]
)
def test_a_damaged_line_is_left_out_with_a_notice_and_the_rest_is_kept(damage: bytes, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = MetricsFile(path)
    first.on_start(start(0))
    for step in (1, 2, 3):
        first.on_step(report(step))
    first.on_evaluation(EVALUATION)
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*lines[:2], damage, *lines[3:]]) + b"\n")
    notices: list[str] = []
    MetricsFile(path, notices.append).on_start(start(3))
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(event["event"], event["step"]) for event in kept] == [
        ("start", 0), ("step", 1), ("step", 3), ("evaluation", 3), ("start", 3),
    ]  # fmt: skip
    assert notices == [f"{path}: line 3 is unreadable and left out; the rest of the metrics is kept"]


def test_several_damaged_lines_are_one_notice(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"x\n\x00\n\xff\n")
    notices: list[str] = []
    MetricsFile(path, notices.append).keep_until(5)
    assert notices == [f"{path}: line 1 and 2 more are unreadable and left out; the rest of the metrics is kept"]
    assert path.read_bytes() == b""


def test_a_line_damaged_while_the_run_goes_on_does_not_keep_the_report_from_being_written(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.on_evaluation(EVALUATION)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"event": "evaluation", "step": 3, \xff\n')
    ReportFile(tmp_path / "training_report.json", tmp_path / "metrics.jsonl").on_end(END)
    written = json.loads((tmp_path / "training_report.json").read_text())
    assert [evaluation["step"] for evaluation in written["evaluations"]] == [3]


def test_floats_in_metrics_are_exact_and_lines_are_json(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.on_step(report(1, nll=0.1 + 0.2))
    metrics.on_step(report(2, nll=math.nan))
    lines = [json.loads(line, parse_constant=refuse) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["nll"] == 0.1 + 0.2
    assert lines[1]["nll"] == "nan"


def refuse(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def test_probes_that_are_not_finite_are_json(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    MetricsFile(path).on_step(replace(report(1), probes={"gate": [0.5, math.nan, -math.inf], "rate": (math.inf,)}))
    line = json.loads(path.read_text(), parse_constant=refuse)
    assert line["probes"] == {"gate": [0.5, "nan", "-inf"], "rate": ["inf"]}


def test_lines_of_former_runs_with_bare_nan_make_a_report_that_is_json(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"event": "evaluation", "step": 3, "bits_per_byte": 1.0, "sources": {"a": NaN}}\n')
    ReportFile(tmp_path / "report.json", path).on_end(END)
    written = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    assert written["evaluations"][0]["sources"] == {"a": "nan"}


def test_a_full_disk_at_the_end_keeps_the_report_that_was_there(tmp_path: Path) -> None:
    written = ReportFile(tmp_path / "report.json", tmp_path / "metrics.jsonl")
    written.on_end(END)
    before = (tmp_path / "report.json").read_bytes()
    (tmp_path / "report.json.tmp").symlink_to("/dev/full")
    written.on_end(replace(END, reason="interrupted"))
    assert (tmp_path / "report.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_the_name_of_rewritten_metrics_is_on_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    for step in (1, 2):
        metrics.on_step(report(step))
    synced: list[tuple[Path, list[str]]] = []
    monkeypatch.setattr(
        recorders, "sync_folder", lambda folder: synced.append((folder, [path.name for path in folder.iterdir()]))
    )
    metrics.keep_until(1)
    assert synced == [(tmp_path, ["metrics.jsonl"])]


def test_the_report_says_how_the_run_ended(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.on_start(start(0))
    metrics.on_evaluation(EVALUATION)
    ReportFile(tmp_path / "training_report.json", tmp_path / "metrics.jsonl").on_end(END)
    written = json.loads((tmp_path / "training_report.json").read_text())
    assert written["end"]["reason"] == "finished"
    assert written["end"]["bits_per_byte"] == 1.2
    assert [evaluation["step"] for evaluation in written["evaluations"]] == [3]


def test_that_figures_are_a_bound_is_written_down_only_where_they_are(tmp_path: Path) -> None:
    def written(name: str, evaluation: EvaluationReport, end: RunEnd) -> tuple[list[bytes], dict[str, Any]]:
        (folder := tmp_path / name).mkdir()
        metrics, board = MetricsFile(folder / "metrics.jsonl"), TensorBoard(folder)
        report = ReportFile(folder / "report.json", folder / "metrics.jsonl")
        board.on_start(start(0))
        for hook in (metrics, board):
            hook.on_evaluation(evaluation)
        for hook in (metrics, board, report):
            hook.on_end(end)
        return (folder / "metrics.jsonl").read_bytes().splitlines(), json.loads((folder / "report.json").read_text())

    exact, exact_report = written("exact", EVALUATION, END)
    bound = replace(EVALUATION, is_bound=True, monte_carlo_error=0.02)
    told, told_report = written("bound", bound, replace(END, is_bound=True))
    assert told == [
        exact[0].removesuffix(b"}") + b', "is_bound": true, "monte_carlo_error": 0.02}',
        exact[1].removesuffix(b"}") + b', "is_bound": true}',
    ]
    assert b"bound" not in b"".join(exact)
    assert told_report["evaluations"] == [
        {**exact_report["evaluations"][0], "is_bound": True, "monte_carlo_error": 0.02}
    ]
    assert "is_bound" not in exact_report["end"]
    assert told_report["end"] == {**exact_report["end"], "is_bound": True}
    assert scalars(tmp_path / "bound", "validation/monte_carlo_error") == [(3, pytest.approx(0.02))]


def test_tensorboard_events_hold_the_scalars(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recorder = TensorBoard(tmp_path)
    recorder.on_start(start(0))
    recorder.on_step(report(1))
    recorder.on_evaluation(EVALUATION)
    recorder.on_end(END)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.value for event in events.Scalars("train/nll")] == [2.0]
    assert [event.step for event in events.Scalars("validation/source/text")] == [3]


def test_the_number_of_the_stage_is_a_curve(tmp_path: Path) -> None:
    recorder = TensorBoard(tmp_path)
    recorder.on_start(start(0))
    for step, number in ((1, 1), (2, 2)):
        recorder.on_step(replace(report(step), stage=StagePlace("any", number, 2, None)))
    recorder.on_end(END)
    assert scalars(tmp_path, "train/stage") == [(1, 1.0), (2, 2.0)]


def test_throughput_counts_tokens_over_wall_time_without_pauses() -> None:
    now = [100.0]
    meter = Throughput(clock=lambda: now[0])
    now[0] = 102.0
    assert meter.count(3000) == (1500.0, 2.0)
    now[0] = 150.0
    meter.restart()
    now[0] = 150.5
    assert meter.count(1000) == (2000.0, 0.5)


def test_lines_that_a_full_disk_did_not_take_are_written_when_it_does(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.symlink_to("/dev/full")
    metrics = MetricsFile(path)
    metrics.on_step(report(1))
    metrics.on_step(report(2))
    path.unlink()
    metrics.on_step(report(3))
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_curves_go_on_after_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.summary.writer import event_file_writer
    from torch.utils.tensorboard import SummaryWriter

    now = [1]
    clock, numbers = SimpleNamespace(time=lambda: now[0]), itertools.count(9)  # 10 would be read before 9
    for module in (event_file_writer, tensorboard):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(event_file_writer, "_global_uid", SimpleNamespace(get=lambda: next(numbers)))

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    recorder = TensorBoard(tmp_path)
    recorder.on_start(start(0))
    with monkeypatch.context() as disk:
        disk.setattr(SummaryWriter, "add_scalar", full)
        recorder.on_step(report(1))
    recorder.on_step(report(2))  # in the same second
    now[0] = 2
    recorder.on_step(report(3))
    recorder.on_end(END)
    assert scalars(tmp_path, "train/nll") == [(3, 2.0)]


@pytest.mark.parametrize("later", [3600, -3600, 0], ids=["later", "the clock goes back", "at once"])
@pytest.mark.parametrize("snapshot", [0, 2])
def test_curves_past_the_snapshot_are_purged_also_past_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshot: int, later: int
) -> None:
    from tensorboard.summary.writer import event_file_writer

    for time, begin, nll in ((10_000, 0, 2.0), (10_000 + later, snapshot, 1.0)):
        for module in (event_file_writer, tensorboard):
            monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda time=time: time))
        recorder = TensorBoard(tmp_path)
        recorder.on_start(start(begin))
        for step in range(begin + 1, 5):
            recorder.on_step(report(step, nll))
        recorder.on_end(END)
    expected = [(step, 2.0 if step <= snapshot else 1.0) for step in range(1, 5)]
    assert scalars(tmp_path, "train/nll") == expected


def test_names_put_in_order_are_never_taken(tmp_path: Path) -> None:
    for second in (997, 999, 1000, 1005):
        (tmp_path / f"events.out.tfevents.{second:010d}.host.1.0").write_text(str(second))
    tensorboard._end_before(1000, tmp_path)
    files = sorted(tmp_path.iterdir())
    assert [path.read_text() for path in files] == ["997", "999", "1000", "1005"]
    assert files[-1].name < "events.out.tfevents.0000001000"

"""`dreamlm ckpt` over small snapshots."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from dreamlm.checkpoints.manifest import Record
from dreamlm.checkpoints.store import Store


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of three snapshots, of which the first is the best."""
    folder = tmp_path / "run"
    folder.mkdir()
    store = Store(folder)
    for step, loss in ((10, 1.5), (20, 4.0), (30, 3.0)):

        def write(into: Path, step: int = step) -> None:
            save_file({"weight": np.full((2, 3), float(step), np.float32)}, into / "model.safetensors")
            (into / "state.json").write_text(json.dumps({"step": step}))

        record = Record(step=step, tokens=step * 100, finite=True, validation_loss=loss, created="2026-01-02T03:04:05Z")
        store.commit(record, write, expected_bytes=1000)
    return folder


def test_list_names_the_latest_and_the_best(cli: Any, run: Path) -> None:
    outcome = cli("ckpt", "list", "--run", str(run))
    lines = [line.split() for line in outcome.out.splitlines()]
    assert (outcome.code, outcome.err) == (0, "")
    assert lines[0] == ["name", "step", "tokens", "held-out", "size", "created", "notes"]
    assert lines[1][:4] == ["lm_current", "30", "3.00k", "loss"]
    assert lines[1][-3:] == ["latest,", "last", "finite"]
    assert lines[3][:4] == ["lm_prev2", "10", "1.00k", "loss"]
    assert lines[3][-1] == "best"
    listed = json.loads(cli("ckpt", "list", "--run", str(run), "--json").out)
    assert [one["step"] for one in listed] == [30, 20, 10]


def test_list_tells_rewards_from_losses(cli: Any, tmp_path: Path) -> None:
    for step, reward in ((10, 0.5), (20, 0.25)):
        record = Record(step=step, tokens=100, finite=True, validation_loss=-reward, kind="policy")
        Store(tmp_path).commit(
            record, lambda into: save_file({"weight": np.zeros(1)}, into / "model.safetensors"), expected_bytes=1000
        )
    lines = cli("ckpt", "list", "--run", str(tmp_path)).out.splitlines()
    assert ["reward 0.2500" in lines[1], "reward 0.5000" in lines[2]] == [True, True]
    assert lines[2].endswith("best")
    listed = json.loads(cli("ckpt", "list", "--run", str(tmp_path), "--json").out)
    assert [(one["kind"], one["reward"], one["validation_loss"]) for one in listed] == [
        ("policy", 0.25, None),
        ("policy", 0.5, None),
    ]


def test_list_and_show_say_which_losses_are_bounds(cli: Any, tmp_path: Path) -> None:
    for step, is_bound in ((10, True), (20, False)):
        record = Record(step=step, tokens=100, finite=True, validation_loss=2.5, is_bound=is_bound)
        Store(tmp_path).commit(
            record, lambda into: save_file({"weight": np.zeros(1)}, into / "model.safetensors"), expected_bytes=1000
        )
    lines = cli("ckpt", "list", "--run", str(tmp_path)).out.splitlines()
    assert ["loss 2.5000" in lines[1], "loss at most 2.5000" in lines[2]] == [True, True]
    listed = json.loads(cli("ckpt", "list", "--run", str(tmp_path), "--json").out)
    assert [one["is_bound"] for one in listed] == [False, True]
    shown = json.loads(cli("ckpt", "show", "lm_prev", "--run", str(tmp_path), "--json").out)
    assert shown["record"]["is_bound"] is True


def test_verify_finds_a_flipped_byte_and_exits_1(cli: Any, run: Path) -> None:
    assert cli("ckpt", "verify", "--run", str(run)).code == 0
    victim = run / "checkpoints" / "lm_prev" / "model.safetensors"
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(content)
    outcome = cli("ckpt", "verify", "--run", str(run))
    assert outcome.code == 1
    assert [line.partition(",")[0] for line in outcome.out.splitlines()] == ["lm_current: intact", "lm_prev2: intact"]
    assert outcome.err == "lm_prev: model.safetensors differs from what was saved (sha256)\n"
    verdicts = json.loads(cli("ckpt", "verify", "--run", str(run), "--json").out)
    assert [verdict["intact"] for verdict in verdicts] == [True, False, True]


def test_diff_shows_keys_and_the_largest_difference_of_tensors(cli: Any, run: Path) -> None:
    outcome = cli("ckpt", "diff", "lm_current", "lm_prev", "--run", str(run))
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == (
        "key               lm_current  lm_prev\n"
        "state.json: step  30          20\n"
        "tensor  lm_current  lm_prev     largest difference\n"
        "weight  F32 [2, 3]  F32 [2, 3]  1.000e+01\n"
        "1 tensors differ, 0 are equal bit for bit\n"
    )


def test_show_reads_one_snapshot_by_name_by_folder_and_by_run(cli: Any, run: Path) -> None:
    by_name = cli("ckpt", "show", "lm_current", "--run", str(run))
    by_folder = cli("ckpt", "show", str(run / "checkpoints" / "lm_current"))
    by_run = cli("ckpt", "show", str(run))
    assert by_name.code == 0
    assert by_name.out == by_folder.out == by_run.out
    assert "step             30\n" in by_name.out
    assert "weight  F32   2x3           6\n" in by_name.out


def test_rotate_goes_back_and_prune_keeps_the_best(cli: Any, run: Path) -> None:
    rotated = json.loads(cli("ckpt", "rotate", "--run", str(run), "--json").out)
    assert [one["step"] for one in rotated] == [20, 30, 10]
    outcome = cli("ckpt", "prune", "--run", str(run))
    assert (outcome.code, outcome.out.partition(",")[0]) == (0, "deleted lm_prev")
    left = json.loads(cli("ckpt", "list", "--run", str(run), "--json").out)
    assert [(one["name"], one["step"]) for one in left] == [("lm_current", 20), ("lm_best", 10)]
    assert cli("ckpt", "prune", "--run", str(run)).out == "nothing to delete\n"


def test_no_run_given_lists_the_runs_there_are(
    cli: Any, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    run.rename(tmp_path / "runs" / "mine")
    outcome = cli("ckpt", "list")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == "error: which run?\nvalid: runs/mine\nhelp: name its folder with --run DIR\n"


def test_a_run_without_snapshots_is_told_apart_from_a_missing_one(cli: Any, tmp_path: Path) -> None:
    outcome = cli("ckpt", "list", "--run", str(tmp_path))
    assert outcome.code == 2
    assert outcome.err == f"error: this run has no snapshots\nat: {tmp_path}\nhelp: name a run folder with --run DIR\n"


@pytest.mark.parametrize("command", [("show",), ("verify",), ("list",), ("prune",), ("export", "there")])
def test_a_folder_that_is_not_there_is_the_users_mistake(cli: Any, tmp_path: Path, command: tuple[str, ...]) -> None:
    outcome = cli("ckpt", *command, "--run", str(tmp_path / "nope"))
    assert (outcome.code, outcome.out) == (2, "")
    assert f"at: {tmp_path / 'nope'}" in outcome.err


def test_a_file_to_import_that_is_not_there_is_the_users_mistake(cli: Any, tmp_path: Path) -> None:
    outcome = cli("ckpt", "import", str(tmp_path / "nope.pth"), "--run", str(tmp_path / "run"))
    assert (outcome.code, outcome.err) == (2, f"error: this file does not exist\nat: {tmp_path / 'nope.pth'}\n")
    assert not (tmp_path / "run").exists()

"""One of two processes runs out of memory: both start again with half the micro-batch, and the run is the same."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from workplace import Workplace

TIMEOUT_SECONDS = 120
WORKER = Path(__file__).with_name("cramped_ranks.py")
STEPS = 6
SETS = (f"train.train_tokens={16 * 32 * STEPS}", "train.save_interval_steps=2")


def steps_of(run: Path) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [event for event in events if event["event"] == "step"]


@pytest.mark.slow
def test_a_rank_without_memory_restarts_all_with_half_the_rows_and_the_same_steps(place: Workplace) -> None:
    run, alone = place.folder / "run", place.folder / "alone"
    place.train(alone, *SETS, "train.accumulation_steps=2")
    options = [word for value in SETS for word in ("--set", value)]
    command = ["train", "--preset", str(place.folder / "small.json"), "--run", str(run), "--nproc", "2", *options]
    ended = subprocess.run(
        [sys.executable, str(WORKER), "4", "4", *command],
        timeout=TIMEOUT_SECONDS, capture_output=True, text=True, check=False,
        env={**os.environ, "TORCHDYNAMO_DISABLE": "1"},  # imports faster
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    said = ended.stderr.splitlines()
    assert [line for line in said if "memory" in line] == [
        "out of memory: micro-batch 8 -> 4 rows, accumulation x2; the 2 processes start again from the newest snapshot"
    ]
    assert not any("Traceback" in line or line.startswith("error:") for line in said)
    assert any(line.startswith("training resumes at step 2:") for line in said)
    state = json.loads((run / "checkpoints" / "lm_current" / "state.json").read_text())
    assert (state["micro_rows"], state["step"], state["tokens"]) == (4, STEPS, 16 * 32 * STEPS)
    assert [step["step"] for step in steps_of(run)] == list(range(1, STEPS + 1))
    assert [step["nll"] for step in steps_of(run)] == pytest.approx([s["nll"] for s in steps_of(alone)], rel=1e-5)

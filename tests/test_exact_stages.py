"""A run that is killed before, at and behind an edge of its curriculum ends as one that never stopped."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_exact_resume import Worker, assert_same_run, launched

STEPS, EDGES = 24, (8, 16)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """Trains a tiny model that dreams, in three stages; every second step is saved."""
    folder = tmp_path_factory.mktemp("stages")
    lines = [json.dumps({"text": f"the {word} saw the other {word} " * 6}) for word in map(str, range(200))]
    (folder / "text.jsonl").write_text("\n".join(lines))
    small = {"num_experts": 2, "moe_top_k": 1, "expert_num_layers": 1, "expert_num_heads": 2, "graph_num_heads": 2}
    stages = [
        {"name": name, "steps": 8, "dream_length": length, "num_dream_sequences": dreams, "graph_reasoning_hops": hops}
        for name, length, dreams, hops in (("core", 2, 1, 1), ("more", 3, 2, 2), ("less", 1, 2, 1))
    ]
    values = {
        "model": {
            "hidden_size": 16,
            "num_layers": 1,
            "num_heads": 2,
            "seq_length": 32,
            "segment_length": 8,
            "dropout": 0.1,
            "modules": [{"type": "dreaming", **small}],
        },
        "tokenizer": {"type": "bpe", "vocab_size": 300},
        "data": {"sources": [{"type": "jsonl", "name": "text", "paths": [str(folder / "text.jsonl")]}]},
        "train": {
            "train_tokens": STEPS * 4 * 32,
            "per_gpu_batch_size": 2,
            "accumulation_steps": 2,
            "precision": "fp32",
            "optimizer": "muon",
            "curriculum": stages,
            "eval_tokens": 500,
            "validation_tokens": 300,
            "save_interval_steps": 2,
        },
        "generate": {"max_new_tokens": 2},
    }
    (folder / "stages.json").write_text(json.dumps(values))
    with launched(folder / "stages.json") as worker:
        yield worker


@pytest.fixture(scope="module")
def unbroken(worker: Worker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("unbroken")
    assert worker.train(run) == "0"
    return run


def stages(run: Path) -> list[dict[str, object]]:
    """Of the report, but for the seconds."""
    report = json.loads((run / "training_report.json").read_text())
    return [{key: value for key, value in one.items() if key != "seconds"} for one in report["stages"]]


def test_the_reference_passes_all_its_stages(unbroken: Path) -> None:
    lines = [json.loads(line) for line in (unbroken / "metrics.jsonl").read_text().splitlines()]
    numbers = [line["stage"]["number"] for line in lines if line["event"] == "step"]
    assert numbers == [1] * 8 + [2] * 8 + [3] * 8
    assert [one["name"] for one in stages(unbroken)] == ["core", "more", "less"]


def test_kills_before_at_and_behind_every_edge_change_nothing(worker: Worker, unbroken: Path, tmp_path: Path) -> None:
    """One run, killed at each of these moments; the snapshots are those of even steps."""
    moments = [
        moment
        for edge in EDGES
        for moment in (("step", edge - 1), ("step", edge), ("save", edge), ("step", edge + 1), ("save", edge + 2))
    ]
    for moment in moments:
        assert worker.train(tmp_path, kill_at=moment) == "killed", moment
    assert worker.train(tmp_path) == "0"
    assert_same_run(tmp_path, unbroken)
    assert stages(tmp_path) == stages(unbroken)

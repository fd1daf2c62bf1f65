"""How long a snapshot blocks training, against a plain safetensors write and fsync of the same bytes.

    python benchmarks/snapshot.py [--parameters 10000000] [--rounds 15] [--folder DIR]

Each round does all three in a random order, on the same disk; a ratio is taken within a round.
plain: one `safetensors.torch.save_file` each for model and optimizer, then fsync of both.
digested: the same, then sha256 of both files, the least that can be verified later.
commit: `Store.commit` of the same tensors, that is space check, writing, sha256 of every byte, fsync of files and
folders, rotation. The oldest snapshot is deleted while training goes on; the folders of the other two stay.
"""

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from dreamlm.checkpoints.manifest import Record, digest_file
from dreamlm.checkpoints.snapshot import MODEL, OPTIMIZER, Snapshot, write_snapshot
from dreamlm.checkpoints.store import Store


def make_snapshot(parameters: int) -> Snapshot:
    """fp32 weights and two AdamW moments, in matrices of 1,024 columns."""
    rows = max(1, parameters // 20 // 1024)
    model = {f"layers.{index}.weight": torch.randn(rows, 1024) for index in range(20)}
    moments = {f"{name}.{moment}": torch.randn_like(t) for name, t in model.items() for moment in ("m", "v")}
    return Snapshot(model, moments, {"step": 1}, {"model_type": "dreamlm"}, {"name": "benchmark"}, {})


def plain(folder: Path, snapshot: Snapshot) -> None:
    for name, tensors in ((MODEL, snapshot.model), (OPTIMIZER, snapshot.optimizer)):
        save_file(dict(tensors), folder / name)
    for name in (MODEL, OPTIMIZER):
        descriptor = os.open(folder / name, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parameters", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--folder", type=Path, default=None, help="a folder on the disk to measure")
    options = parser.parse_args()
    snapshot, order = make_snapshot(options.parameters), random.Random(0)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        store = Store(Path(name) / "run")
        count = iter(range(1_000_000))

        def commit() -> None:
            step = next(count)
            write = lambda folder: write_snapshot(folder, snapshot)  # noqa: E731
            store.commit(Record(step, step, True), write, expected_bytes=snapshot.size_bytes)

        def write_plain() -> Path:
            folder = Path(name) / f"plain-{next(count)}"
            folder.mkdir()
            plain(folder, snapshot)
            return folder

        def write_digested() -> None:
            for path in write_plain().iterdir():
                digest_file(path)

        times: dict[str, list[float]] = {"plain": [], "digested": [], "commit": []}
        with store.lock():  # as training holds it
            for _ in range(4):  # older snapshots to rotate
                commit()
            for _ in range(options.rounds):
                actions = [("plain", write_plain), ("digested", write_digested), ("commit", commit)]
                order.shuffle(actions)
                for label, action in actions:
                    times[label].append(seconds(action))
                    time.sleep(0.3)  # training goes on; what fell off is deleted meanwhile
    machine = f"torch {torch.__version__}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    print(f"{snapshot.size_bytes / 1e6:,.0f} MB, {options.rounds} rounds, {machine}")
    for label, values in times.items():
        print(f"{label:9} median {statistics.median(values):.3f} s, least {min(values):.3f} s")
    for peer in ("plain", "digested"):
        ratios = [ours / theirs for ours, theirs in zip(times["commit"], times[peer], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        least = min(times["commit"]) / min(times[peer])
        print(f"commit / {peer}: median {middle:.2f} (quartiles {low:.2f} to {high:.2f}), least to least {least:.2f}")


if __name__ == "__main__":
    main()

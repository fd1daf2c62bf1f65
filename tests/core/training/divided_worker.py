"""One of the ranks that test_zero_divided.py starts: `python divided_worker.py FOLDER fast|slow`."""

import gc
import json
import sys
from pathlib import Path
from typing import Any

import torch
from divided_scenes import FAST, OPTIMIZER, RESUMED, SAVED_AT, SLOW, STEPS, Case, objective, single, train
from safetensors.torch import load_file, save_file
from torch import distributed
from zero_scenes import MAX_NORM

from dreamlm.core.training.backend import process_group
from dreamlm.core.training.backend.backend import Tensors
from dreamlm.core.training.backend.launch import end_rank
from dreamlm.core.training.backend.process_group import Place

PLACE = Place.from_environment()
process_group.join(PLACE, torch.device("cpu"))

from dreamlm.core.training.backend import zero  # noqa: E402 - DeepSpeed comes silently only after joining

zero.UNDIVIDED = 0


def divided(case: Case) -> zero.ZeroBackend:
    built = objective(case)
    weights = built.model.config.loss_weights
    return zero.ZeroBackend(built, OPTIMIZER, weights, MAX_NORM, case.precision, False, case.stage, PLACE)


def keep(folder: Path, name: str, tensors: Tensors) -> None:
    if PLACE.rank == 0:
        save_file(dict(tensors.model), folder / f"{name}.model.safetensors")
        save_file(dict(tensors.optimizer), folder / f"{name}.optimizer.safetensors")
    distributed.barrier()


def unbroken(folder: Path, case: Case) -> dict[str, Any]:
    """Train to the end, with a snapshot on the way."""
    backend = divided(case)
    steps = train(case, backend, range(SAVED_AT))
    held = sum(parameter.numel() for parameter in backend.model.parameters())
    keep(folder, f"{case}-saved", backend.gather())
    steps += train(case, backend, range(SAVED_AT, STEPS))
    keep(folder, f"{case}-final", backend.gather())
    # In bf16 DeepSpeed's linear layers, which stage 3 puts in the place of torch's, round elsewhere.
    alone = train(case, single(case), range(STEPS)) if case.precision == "bf16" and PLACE.rank == 0 else None
    return {"steps": steps, "held": held, "alone": alone}


def resumed(folder: Path, case: Case) -> list[list[float]]:
    """Go on from the snapshot, with a backend that has done something else before."""
    backend = divided(case)
    train(case, backend, [0])
    parts = (load_file(folder / f"{case}-saved.{part}.safetensors") for part in ("model", "optimizer"))
    backend.restore(Tensors(*parts))
    steps = train(case, backend, range(SAVED_AT, STEPS))
    keep(folder, f"{case}-resumed", backend.gather())
    return steps


def main(folder: Path, cases: list[Case]) -> None:
    torch.set_num_threads(1)
    gc.freeze()  # DeepSpeed collects garbage for every model it divides
    seen: dict[str, Any] = {str(case): unbroken(folder, case) for case in cases}
    seen |= {f"{case}-resumed": resumed(folder, case) for case in cases if case in RESUMED}
    if PLACE.rank == 0:
        (folder / "seen.json").write_text(json.dumps(seen), encoding="utf-8")
    process_group.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), {"fast": FAST, "slow": SLOW}[sys.argv[2]])
    end_rank(0)

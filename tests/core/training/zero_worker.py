"""One of the ranks that test_zero.py starts: `python zero_worker.py FOLDER`; the first one leaves what it saw there."""

import gc
import json
import math
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from small_runs import Run, Shelf
from torch import distributed
from zero_scenes import (
    CASES,
    DREAM_WEIGHTS,
    DREAMS,
    EXPERT_FACTORS,
    EXPERT_STAGES,
    EXPERT_WEIGHTS,
    EXPERTS,
    MAX_NORM,
    MOVED_STAGES,
    OPTIMIZERS,
    RESUMED_CASES,
    SAVED_AT,
    STEPS,
    Case,
    FewWindows,
    augmented,
    held_out_loss,
    micro_batch,
    objective,
    share,
    train,
    train_staged,
)

from dreamlm.core.errors import DreamLMError, TrainingFailed
from dreamlm.core.objectives.causal import CausalObjective
from dreamlm.core.training.backend import process_group
from dreamlm.core.training.backend.backend import Backend, Tensors
from dreamlm.core.training.backend.choose import build_backend
from dreamlm.core.training.backend.launch import end_rank
from dreamlm.core.training.backend.process_group import Place
from dreamlm.core.training.gauge import Reading
from dreamlm.core.training.rows import RowsByMemory
from dreamlm.core.training.sharing import validate_together
from dreamlm.core.training.state import TrainingState
from dreamlm.core.training.surroundings import Validation
from dreamlm.wiring.saver import NoSaver

PLACE = Place.from_environment()
process_group.join(PLACE, torch.device("cpu"))

from dreamlm.core.training.backend.zero import ZeroBackend  # noqa: E402 - DeepSpeed comes silently only after joining


def zero(case: Case, weights: dict[str, float], objective: CausalObjective) -> ZeroBackend:
    optimizer = OPTIMIZERS[case.optimizer]
    return ZeroBackend(objective, optimizer, weights, MAX_NORM, case.precision, False, case.stage, PLACE)


def keep(folder: Path, name: str, tensors: Tensors) -> None:
    if PLACE.rank == 0:
        save_file(dict(tensors.model), folder / f"{name}.model.safetensors")
        save_file(dict(tensors.optimizer), folder / f"{name}.optimizer.safetensors")
    distributed.barrier()


def read(folder: Path, name: str) -> Tensors:
    parts = (load_file(folder / f"{name}.{part}.safetensors") for part in ("model", "optimizer"))
    return Tensors(*parts)


def unbroken(folder: Path, case: Case) -> dict[str, Any]:
    """Train to the end, with a snapshot on the way."""
    backend = zero(case, {"token": 1.0}, objective())
    fresh = backend.gather()
    steps = train(backend, range(SAVED_AT))
    keep(folder, f"{case}-saved", backend.gather())
    steps += train(backend, range(SAVED_AT, STEPS))
    keep(folder, f"{case}-final", backend.gather())
    return {"steps": steps, "state_before_first_step": len(fresh.optimizer)}


def resumed(folder: Path, case: Case) -> dict[str, Any]:
    """Go on from the snapshot, with everything in the way that must leave no trace."""
    loss_weights = {"token": 1.0}
    backend = zero(case, loss_weights, objective())
    train(backend, [77])
    backend.restore(read(folder, f"{case}-saved"))
    backend.forward_backward(share(50, backend))
    backend.discard()
    loss_weights["token"] = 1e39  # beyond fp32
    overflowing = backend.forward_backward(share(51, backend))
    skipped = backend.update(1.0)
    loss_weights["token"] = 1.0
    keep(folder, f"{case}-skipped", backend.gather())
    with backend.whole():
        losses = [held_out_loss(backend) for _ in range(3 if backend.rank else 1)]  # ranks need not run in step
    steps = train(backend, range(SAVED_AT, STEPS))
    keep(folder, f"{case}-resumed", backend.gather())
    return {
        "steps": steps,
        "overflow": [overflowing.nll, skipped.applied, str(skipped.gradient_norm)],
        "held_out": losses[0],
        "any": [backend.any(backend.rank == 1), backend.any(False)],
        "first": [backend.first("second" if backend.rank else ""), backend.first(str(backend.rank)), backend.first("")],
    }


def from_one_process(folder: Path, stage: int) -> dict[str, Any]:
    backend = zero(Case(stage, "fp32"), {"token": 1.0}, objective())
    backend.restore(read(folder, "single-saved"))
    return {"steps": train(backend, range(SAVED_AT, STEPS))}


def mistakes(folder: Path) -> list[str]:
    """What is said when the shares differ, and when a snapshot does not fit."""
    backend = zero(Case(2, "fp32"), {"token": 1.0}, objective())
    saved = read(folder, "single-saved")
    name = next(iter(saved.model))
    attempts = [
        lambda: backend.forward_backward([micro_batch(0, number) for number in range(1 + backend.rank)]),
        lambda: backend.restore(Tensors({**saved.model, name: torch.zeros(3)}, saved.optimizer)),
        lambda: backend.restore(Tensors(saved.model, {f"{name}/momentum_buffer": torch.zeros(3)})),
    ]
    said = []
    for attempt in attempts:
        try:
            attempt()
        except DreamLMError as error:
            said.append(str(error))
    return said


class ZeroRun(Run):
    """The whole loop, with sanity checks, evaluation and saving, on weights that are divided."""

    def backend(self) -> Backend:  # type: ignore[override]
        alone, config = super().backend(), self.config()
        return build_backend(config, alone.objective, {"token": 1.0}, config.precision, PLACE)


def together(folder: Path) -> dict[str, Any]:
    """What ranks agree on before training starts."""
    precision = process_group.as_the_first_rank(["fp32", "bf16"][PLACE.rank], ["bf16", "fp32"], torch.device("cpu"))
    note = folder / "note"
    with process_group.first_rank_first():
        found = note.exists()
        note.touch()
    backend = zero(Case(3, "fp32"), {"token": 1.0}, objective())
    agreed = backend.any(precision != "fp32"), backend.sum([float(found)])[0]
    with backend.whole():
        validation = validate_together(backend, FewWindows(), 2, ("a", "b"))
    return {"agreed": agreed, "validation": vars(validation)}


class SlowShelf(Shelf):
    """The first rank commits long after the others have given their part."""

    committed_at = 0.0

    def save(self, state: TrainingState, tensors: Tensors) -> Path:
        time.sleep(0.1 if PLACE.rank == 0 else 0.0)
        folder = super().save(state, tensors)
        self.committed_at = time.monotonic()
        return folder


def whole_loop() -> dict[str, Any]:
    run = ZeroRun({"accumulation_steps": 2, "per_gpu_batch_size": 2, "train_tokens": 16 * 4 * 14, "zero_stage": 3})
    run.shelf = shelf = SlowShelf()
    run.go()
    ended = torch.tensor(time.monotonic() * (PLACE.rank > 0), dtype=torch.float64)
    distributed.all_reduce(ended)
    return {
        "second_rank_ended_later_by": ended.item() - shelf.committed_at,
        "losses": [report.nll for report in run.hook.steps],
        "tokens": run.hook.steps[-1].tokens,
        "saved": [sorted(tensors.model) for _, tensors in run.shelf.saved],
    }


class Uneven:
    """A gauge: the second rank has less memory, and room for two rows at most."""

    reads = 0

    def begin(self, exactly: bool) -> None:
        self.reads += 1

    def read(self) -> Reading:
        return Reading(0.1, 0.9 if PLACE.rank == 1 and self.reads == 2 else 0.2)


def sized_loop() -> dict[str, Any]:
    """The second rank wants fewer rows after its second step; nobody minds more from the fifth on."""
    run = ZeroRun({"accumulation_steps": 2, "per_gpu_batch_size": 2, "train_tokens": 16 * 8 * 8, "zero_stage": 2})
    run.rows = RowsByMemory(0.5, 0.1, 2, Uneven())
    state = run.first_state
    run.first_state = lambda: replace(state(), global_rows=8)  # type: ignore[method-assign]
    run.go()
    mine = [float(step.micro_rows or 0) for step in run.hook.steps]
    other = torch.tensor(mine)
    distributed.all_reduce(other)
    return {"rows": mine, "sum": other.tolist(), "tokens": [step.tokens for step in run.hook.steps]}


def diverged_loop() -> list[str]:
    """What each rank says when the weights of the second are broken as they are measured, after step 3."""
    often = {"eval_tokens": 16 * 4 * 3, "save_interval_steps": 2}
    run = ZeroRun({"accumulation_steps": 2, "per_gpu_batch_size": 2, "train_tokens": 16 * 4 * 9, **often})
    run.shelf = Shelf() if PLACE.rank == 0 else NoSaver()  # type: ignore[assignment]
    backend = run.backend()

    def validate() -> Validation:
        if PLACE.rank == 1:
            with torch.no_grad():
                backend.model.norm.weight.fill_(math.nan)
        return validate_together(backend, FewWindows(), 2, ("a", "b"))

    run.validate = validate
    said = ""
    try:
        run.go(backend=backend)  # type: ignore[arg-type]
    except TrainingFailed as error:
        said = error.what
    both = [""] * PLACE.world_size
    distributed.all_gather_object(both, said)
    return both


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    gc.freeze()  # DeepSpeed collects garbage for every model it divides
    seen: dict[str, Any] = {}
    for case in CASES:
        seen[str(case)] = unbroken(folder, case)
    for case in RESUMED_CASES:
        seen[f"{case}-resumed"] = resumed(folder, case)
    for stage in MOVED_STAGES:
        seen[f"z{stage}-from-one-process"] = from_one_process(folder, stage)
    for stage in EXPERT_STAGES:
        backend = zero(Case(stage, "fp32"), EXPERT_WEIGHTS, objective(**EXPERTS))
        backend.weigh(EXPERT_FACTORS)
        seen[f"z{stage}-experts"] = train(backend, range(STEPS))
        dreaming = zero(Case(stage, "fp32"), DREAM_WEIGHTS, objective(**DREAMS))
        seen[f"z{stage}-staged"] = train_staged(dreaming)
        keep(folder, f"z{stage}-staged", dreaming.gather())
        seen[f"z{stage}-augmented"] = train(zero(Case(stage, "fp32"), {"token": 1.0}, augmented()), range(STEPS))
    seen["mistakes"] = mistakes(folder)
    seen["together"] = together(folder)
    seen["loop"] = whole_loop()
    seen["sized"] = sized_loop()
    seen["diverged"] = diverged_loop()
    if PLACE.rank == 0:
        (folder / "seen.json").write_text(json.dumps(seen), encoding="utf-8")
    process_group.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    end_rank(0)

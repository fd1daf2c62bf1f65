"""Models of every kind with each of their weights divided between two processes: the numbers of one process.

The processes are started once for each set of cases and leave what they saw; each test looks at a part of it.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from divided_scenes import ALL, FAST, RESUMED, SAVED_AT, STEPS, Case, single, train
from safetensors.torch import load_file
from two_ranks import run_in_two_ranks

from dreamlm.core.training.backend.backend import Tensors

pytestmark = pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning")

TIMEOUT_SECONDS = 900
TOLERANCE = {"fp32": 1e-6, "bf16": 1e-4}
"""Relative, of losses; a step of the same samples adds up its gradient in another order."""


class Left(NamedTuple):
    """What the two processes left."""

    folder: Path
    seen: dict[str, Any]

    def snapshot(self, name: str) -> Tensors:
        return Tensors(*(load_file(self.folder / f"{name}.{part}.safetensors") for part in ("model", "optimizer")))


Leave = Callable[[Case], Left]


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Leave:
    found: dict[str, Left] = {}

    def of(case: Case) -> Left:
        kind = "fast" if case in FAST else "slow"
        if kind not in found:
            folder = tmp_path_factory.mktemp(kind)
            worker = Path(__file__).with_name("divided_worker.py")
            run_in_two_ranks(worker, folder, kind, seconds=TIMEOUT_SECONDS)
            found[kind] = Left(folder, json.loads((folder / "seen.json").read_text()))
        return found[kind]

    return of


def each(cases: list[Case]) -> pytest.MarkDecorator:
    marked = [pytest.param(case, marks=() if case in FAST else pytest.mark.slow, id=str(case)) for case in cases]
    return pytest.mark.parametrize("case", marked)


@each(ALL)
def test_two_processes_reach_the_losses_and_the_snapshot_of_one(left: Leave, case: Case) -> None:
    backend, seen = single(case), left(case).seen[str(case)]
    wanted = train(case, backend, range(STEPS))
    tolerance = TOLERANCE[case.precision]
    for found, (nll, norm) in zip(seen["steps"], seen["alone"] or wanted, strict=True):
        assert found == [pytest.approx(nll, rel=tolerance), pytest.approx(norm, rel=10 * tolerance)]
    reference, final = backend.gather(), left(case).snapshot(f"{case}-final")
    assert final.model.keys() == reference.model.keys()
    assert final.optimizer.keys() == reference.optimizer.keys()
    for name, tensor in {**final.model, **final.optimizer}.items():
        other = {**reference.model, **reference.optimizer}[name]
        torch.testing.assert_close(tensor, other, rtol=1e-3, atol=10 * tolerance, msg=name)
        if name.endswith("/step"):
            assert tensor.item() == other.item()


@each(RESUMED)
def test_a_resume_repeats_losses_and_weights_bit_by_bit(left: Leave, case: Case) -> None:
    seen = left(case).seen
    assert seen[f"{case}-resumed"] == seen[str(case)]["steps"][SAVED_AT:]
    final, resumed = left(case).snapshot(f"{case}-final"), left(case).snapshot(f"{case}-resumed")
    for one, other in ((final.model, resumed.model), (final.optimizer, resumed.optimizer)):
        assert one.keys() == other.keys()
        assert [name for name in one if not torch.equal(one[name], other[name])] == []


@each([case for case in ALL if case.stage == 3])
def test_between_steps_a_process_holds_no_weight_whole(left: Leave, case: Case) -> None:
    assert left(case).seen[str(case)]["held"] == 0


@each([case for case in ALL if case.lengths == "resting"])
def test_what_no_text_reaches_rests(left: Leave, case: Case) -> None:
    """Neither weights nor moments of a module move in a step of short texts; nor is the step counted."""
    saved = left(case).snapshot(f"{case}-saved")
    steps = {name: tensor.item() for name, tensor in saved.optimizer.items() if name.endswith("/step")}
    module = {name for name in steps if name.startswith("cognition.")}
    assert {steps[name] for name in module} == {SAVED_AT - 1}
    assert {steps[name] for name in steps.keys() - module} == {SAVED_AT}
    backend = single(case)
    backend.restore(saved)
    train(case, backend, [SAVED_AT])
    after = backend.gather()
    assert all(torch.equal(after.model[key], saved.model[key]) for key in saved.model if key.startswith("cognition."))

"""Joining the other processes of a run and leaving them, whatever happens in between."""

import pytest
import torch
from torch import distributed

from dreamlm.core.errors import DataError
from dreamlm.core.training.backend import process_group
from dreamlm.core.training.backend.process_group import Place, gathered

CPU = torch.device("cpu")


@pytest.fixture
def group_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Joining makes a real group, which needs no other process."""

    def join(place: Place, device: torch.device) -> None:
        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)

    monkeypatch.setattr(process_group, "join", join)


@pytest.mark.usefixtures("group_of_one")
def test_the_group_is_left_when_a_run_has_nothing_to_do() -> None:
    with gathered(Place(0, 0, 2), CPU):
        assert distributed.is_initialized()
    assert not distributed.is_initialized()


@pytest.mark.usefixtures("group_of_one")
def test_the_group_is_left_when_a_run_fails_or_has_left_it_by_itself() -> None:
    with pytest.raises(DataError), gathered(Place(0, 0, 2), CPU):
        raise DataError("no corpus")
    assert not distributed.is_initialized()
    with gathered(Place(0, 0, 2), CPU):
        process_group.leave()
    assert not distributed.is_initialized()


def test_a_process_alone_joins_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_group, "join", lambda place, device: pytest.fail("it looked for others"))
    with gathered(Place(), CPU):
        assert not distributed.is_initialized()

"""A tiny preset on text that the test writes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from workplace import Workplace, furnish


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    torch.set_num_threads(1)
    monkeypatch.setenv("DREAMLM_HOME", str(tmp_path / "home"))
    return furnish(tmp_path)


@pytest.fixture
def trained(place: Workplace) -> Callable[..., Path]:
    def run(*sets: str) -> Path:
        place.train(place.folder / "run", *sets)
        return place.folder / "run"

    return run

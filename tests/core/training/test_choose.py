"""Which backend is chosen, and what the user is told when a choice cannot work."""

from importlib import metadata
from typing import Any

import pytest

from dreamlm.core.errors import UserMistake
from dreamlm.core.training.backend.choose import choose_backend
from dreamlm.core.training.backend.process_group import Place
from dreamlm.core.training.config import TrainingConfig

ALONE, ONE_OF_TWO = Place(), Place(rank=1, local_rank=1, world_size=2)


def choose(place: Place, **options: Any) -> str:
    return choose_backend(TrainingConfig.model_validate(options), place)


def mistake(place: Place, **options: Any) -> UserMistake:
    with pytest.raises(UserMistake) as caught:
        choose(place, **options)
    return caught.value


def test_auto_is_torch_in_one_process_and_deepspeed_in_several() -> None:
    assert choose(ALONE) == "torch"
    assert choose(ONE_OF_TWO) == "deepspeed"


def test_one_process_runs_deepspeed_when_asked() -> None:
    assert choose(ALONE, backend="deepspeed", zero_stage=1) == "deepspeed"


def test_muon_trains_in_one_process() -> None:
    assert choose(ALONE, optimizer="muon") == "torch"


def test_torch_in_several_processes_is_a_mistake() -> None:
    error = mistake(ONE_OF_TWO, backend="torch")
    assert (error.where, error.valid) == ("train.backend", ("auto", "deepspeed"))
    with pytest.raises(UserMistake) as caught:
        choose_backend(TrainingConfig(backend="torch"), ONE_OF_TWO, "rl.reward_model")
    assert caught.value.where == "rl.reward_model.backend"


def test_muon_on_divided_matrices_is_a_mistake_that_names_both_ways_out() -> None:
    error = mistake(ONE_OF_TWO, optimizer="muon", zero_stage=1)
    assert error.what == "ZeRO stage 1 divides a matrix among processes, and muon needs it whole"
    assert "train.zero_stage=0" in error.hint
    assert "train.optimizer=adamw" in error.hint
    assert choose(ONE_OF_TWO, optimizer="muon", zero_stage=0) == "deepspeed"


def test_compiling_divided_weights_is_a_mistake() -> None:
    assert mistake(ONE_OF_TWO, compile=True, zero_stage=3).where == "train.compile"
    assert choose(ONE_OF_TWO, compile=True, zero_stage=2) == "deepspeed"


def test_a_missing_deepspeed_is_said_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    error = mistake(ONE_OF_TWO)
    assert error.what == "DeepSpeed is not installed, and training in several processes needs it"
    assert "pip install 'deepspeed>=0.19.8,<0.20'" in error.hint
    assert choose(ALONE) == "torch"


def test_another_line_of_deepspeed_releases_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "0.20.1")
    assert "deepspeed 0.20.1 is installed" in mistake(ONE_OF_TWO).what


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "0"}, "lacks LOCAL_RANK, WORLD_SIZE"),
        ({"RANK": "0", "LOCAL_RANK": "x", "WORLD_SIZE": "2"}, "no number"),
        ({"RANK": "2", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}, "rank 2 of 2 processes cannot be"),
    ],
)
def test_an_environment_that_makes_no_sense_is_a_mistake(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], message: str
) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserMistake, match=message):
        Place.from_environment()


def test_a_process_without_launcher_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert Place.from_environment() == ALONE

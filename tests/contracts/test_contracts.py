"""Every part, choice, module and preset keeps every contract, in train and in eval mode."""

import importlib
import inspect
import pkgutil

import pytest
from all_contracts import CONTRACTS, TRAINING_ONLY
from contract_cases import SIZES, SIZES_ONLY, cases, smoothed
from contract_heads import head_subjects
from promises import Contract
from torch import nn

import dreamlm.core.heads
import dreamlm.core.modules
import dreamlm.core.nn
import dreamlm.core.rl
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.rl.policy import Policy
from dreamlm.core.rl.reward_model import RewardModel

WRAPPERS = {Policy, RewardModel}
"""A model with heads beside it; they have no weight of their own."""
CASES = {**cases(), **smoothed(), **head_subjects(DreamLM.Config.model_validate(SIZES))}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("contract", CONTRACTS, ids=str)
def test_everyone_keeps_every_contract(contract: Contract, name: str, training: bool) -> None:
    if not training and contract in TRAINING_ONLY:
        pytest.skip("a contract of train mode")
    contract(CASES[name], training)


def test_no_part_of_the_model_escapes_the_contracts() -> None:
    used = {type(part) for subject in CASES.values() for part in subject.fresh(training=False).modules()}
    parts = set()
    for package in (dreamlm.core.heads, dreamlm.core.modules, dreamlm.core.nn, dreamlm.core.rl):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            module = importlib.import_module(found.name)
            parts |= {one for one in vars(module).values() if inspect.isclass(one) and one.__module__ == found.name}
    parts = {part for part in parts if issubclass(part, nn.Module) and not inspect.isabstract(part)}
    assert parts - used == WRAPPERS


def test_every_option_of_the_decoder_is_varied_or_a_size() -> None:
    varied = {name.partition("=")[0] for names in CASES for name in names.split(", ") if "=" in name}
    assert set(DreamLM.Config.model_fields) - varied - SIZES_ONLY == {"modules"}
    assert not varied & SIZES_ONLY

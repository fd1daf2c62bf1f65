"""The contracts can fail: each planted defect is caught by the contract that it breaks, and a sound twin by none."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import planted_modules as planted
import pytest
from all_contracts import CONTRACTS, TRAINING_ONLY
from contract_cases import cases
from contract_subject import Subject
from influence_contracts import causal, documents_apart, no_copying, rows_and_padding
from learning_contracts import every_parameter_learns, finite, it_matters
from planted_leaks import LEAKS
from promises import Contract
from sameness_contracts import one_pass, recomputation, same_seed, survives_saving

from dreamlm.core.modules.module import CognitiveModule

DEFECTS = [
    (planted.PeeksAtTheNextToken, causal),
    (planted.PoolsTheFuture, causal),
    (planted.PeeksWhereNothingFollows, causal),
    (planted.PeeksAtTheNextToken, no_copying),
    (planted.PeeksWhereNothingFollows, no_copying),
    (planted.LearnsNothing, every_parameter_learns),
    (planted.CallsALearnerFrozen, every_parameter_learns),
    (planted.CallsItsMemoryShown, it_matters),
    (planted.DoesNothing, it_matters),
    (planted.IgnoresItsMemory, it_matters),
    (planted.ActsBeforeItKnows, it_matters),
    (planted.ForgetsBetweenCalls, one_pass),
    (planted.MixesRows, rows_and_padding),
    (planted.NotesWhatIsNotItsOwn, rows_and_padding),
    (planted.ForgetsABuffer, survives_saving),
    (planted.KeepsItsStateToItself, survives_saving),
    (planted.DrawsWithoutASeed, same_seed),
    (planted.DrawsFromItsOwnStream, same_seed),
    (planted.DividesByOneTokenLess, finite),
    (planted.WritesTwice, recomputation),
    (planted.DrawsFromItsOwnStream, recomputation),
    (planted.IgnoresDocuments, documents_apart),
    (planted.NotesWhatIsNotItsOwn, documents_apart),
]


MODES = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def require_caught(contract: Contract, subject: Subject, training: bool) -> None:
    with pytest.raises(AssertionError, match=f"^{re.escape(str(contract))} is broken: "):
        contract(subject, training)


@MODES
@pytest.mark.parametrize(("kind", "contract"), DEFECTS, ids=lambda one: getattr(one, "__name__", str(one)))
def test_a_planted_defect_breaks_the_contract_by_name(
    kind: type[CognitiveModule], contract: Contract, training: bool
) -> None:
    if not training and contract in TRAINING_ONLY:
        pytest.skip("a contract of train mode")
    require_caught(contract, planted.subject(kind), training)


@MODES
@pytest.mark.parametrize(("case", "place", "name", "leak"), LEAKS, ids=lambda one: getattr(one, "__name__", str(one)))
def test_a_slot_that_sees_what_is_hidden_breaks_causality(
    case: str, place: Any, name: str, leak: Callable[..., Any], training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, name, leak)
    require_caught(causal, cases()[case], training)


@MODES
def test_an_objective_that_shows_the_answer_breaks_no_copying(training: bool) -> None:
    require_caught(no_copying, replace(planted.subject(planted.Sound), objective=planted.ForgetsTheShift), training)


def test_an_augmentation_that_asks_for_what_it_has_shown_breaks_no_copying() -> None:
    """In train mode: elsewhere nothing is shuffled."""
    shuffling = cases()["mask_vector=on"]
    no_copying(shuffling, False)
    require_caught(no_copying, replace(shuffling, objective=planted.AsksForWhatItHasShown), True)


def test_every_contract_has_a_defect_that_breaks_it() -> None:
    assert {contract for _, contract in DEFECTS} == set(CONTRACTS)


@MODES
@pytest.mark.parametrize("contract", CONTRACTS, ids=str)
def test_a_sound_module_keeps_every_contract(contract: Contract, training: bool) -> None:
    if not training and contract in TRAINING_ONLY:
        pytest.skip("a contract of train mode")
    contract(planted.subject(planted.Sound), training)

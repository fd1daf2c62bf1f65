"""The contracts hold for long windows too, whose masks are made stretch by stretch; here as if 16 tokens were many."""

import pytest
from all_contracts import CONTRACTS, TRAINING_ONLY
from contract_cases import SIZES
from contract_subject import Subject
from promises import Contract

from dreamlm.core.nn import visibility
from dreamlm.core.nn.decoder import DreamLM


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("activation", ["softmax", "sparsemax"])
@pytest.mark.parametrize("contract", CONTRACTS, ids=str)
def test_long_windows_keep_every_contract(
    contract: Contract, activation: str, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not training and contract in TRAINING_ONLY:
        pytest.skip("a contract of train mode")
    for name, size in (("AT_ONCE", 24), ("QUERIES", 3), ("KEYS", 4)):
        monkeypatch.setattr(visibility, name, size)
    contract(Subject(DreamLM.Config.model_validate({**SIZES, "attention_activation": activation})), training)

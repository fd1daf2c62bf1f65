"""Which subject keeps which contract, as a table.

    python tests/contracts/contract_table.py > docs/contracts.md

Runs the suite's own contracts on the suite's own subjects, in train and eval mode.
"""

import sys
from collections.abc import Iterator

import pytest
from all_contracts import CONTRACTS, TRAINING_ONLY
from contract_subject import Subject
from promises import Contract
from test_contracts import CASES


def kept(contract: Contract, subject: Subject) -> str:
    """A sign for train and one for eval mode: + kept, - broken, and nothing where the contract asks nothing."""
    signs = ""
    for training in (True, False):
        if not training and contract in TRAINING_ONLY:
            continue
        try:
            contract(subject, training)
        except AssertionError:
            signs += "-"
        except pytest.skip.Exception:
            continue
        else:
            signs += "+"
    return signs


def lines() -> Iterator[str]:
    yield "# Contracts kept\n"
    yield "`python tests/contracts/contract_table.py`: + kept in a mode, - broken; two signs are train and eval mode."
    yield "One sign where a contract is about training only, or a subject draws random numbers in it.\n"
    yield "Contract 6 lets padding inside a document count in models with modules: there it is part of a segment, as"
    yield "long as any token. What the padding holds, and padding before and behind a document, count in no model.\n"
    for number, contract in enumerate(CONTRACTS, start=1):
        yield f"{number}. {contract.name}"
    columns = [str(contract.number) for contract in CONTRACTS]
    yield f"\n| subject | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}"
    for name, subject in CASES.items():
        yield f"| {name} | {' | '.join(kept(contract, subject) for contract in CONTRACTS)} |"


if __name__ == "__main__":
    for line in lines():
        sys.stdout.write(line + "\n")

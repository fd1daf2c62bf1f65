"""Shares of a step: every pair counts once, on one process, in the micro-batches of a run in one process."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_rewards import TOKENIZER, cat_pairs, reward_model

from dreamlm.core.errors import MicroBatchTooLarge, OutOfMemory, UserMistake
from dreamlm.core.objectives.preference import PairBatch, PreferenceObjective
from dreamlm.core.rl.pair_reading import read_pairs_as_tokens
from dreamlm.core.rl.pair_sharing import check_pair_shares, pairs_too_large, share_of
from dreamlm.core.training.backend.single import SingleProcess
from dreamlm.core.training.optim import AdamW

PAIRS = read_pairs_as_tokens(cat_pairs(23), TOKENIZER, 32).pairs


@given(st.integers(1, len(PAIRS)), st.integers(1, 8), st.integers(1, 5))
def test_shares_together_are_what_one_process_computes(pairs: int, micro_pairs: int, world_size: int) -> None:
    alone = share_of(PAIRS[:pairs], micro_pairs, 0, 0, 1)
    shares = [share_of(PAIRS[:pairs], micro_pairs, 0, rank, world_size) for rank in range(world_size)]
    assert len({len(share) for share in shares}) == 1
    in_order = [share[turn] for turn in range(len(shares[0])) for share in shares]
    assert [batch for batch in in_order if batch.counts] == alone
    idle = [batch for batch in in_order if not batch.counts]
    assert len(idle) < world_size
    assert all((batch.targets, len(batch.pairs)) == (0, 1) for batch in idle)
    assert sum(batch.targets for batch in alone) == pairs
    assert len(alone) == math.ceil(pairs / micro_pairs)


def test_a_micro_batch_that_does_not_count_changes_nothing() -> None:
    batches = [PairBatch(PAIRS[:3], 0), PairBatch(PAIRS[3:5], 0)]
    found = []
    for idle in ([], [PairBatch(PAIRS[7:8], 0, counts=False)]):
        objective = PreferenceObjective(reward_model(shaken=True))
        weights = {"preference": 1.0, "components": 0.2}
        backend = SingleProcess(objective, AdamW.Config(learning_rate=1e-2), weights, 1.0, "fp32", compile=False)
        measured = backend.forward_backward([*batches, *idle])
        found.append((measured, backend.update(1.0), backend.gather()))
    assert found[0][:2] == found[1][:2]
    assert found[0][0].tokens == 5
    one, other = (tensors.model for _, _, tensors in found)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_micro_batch_as_long_as_another_ranks_costs_the_same() -> None:
    objective, batch = PreferenceObjective(reward_model(shaken=True)), PairBatch(PAIRS[:3], 0)
    losses = objective(*batch.inputs(torch.device("cpu")))
    padded = batch.padded(batch.length + 5)
    rows, measured_PC = padded.inputs(torch.device("cpu"))
    assert padded.length == rows.tokens_BT.shape[1] == batch.length + 5
    for name, loss in objective(rows, measured_PC).objectives.items():
        torch.testing.assert_close(loss, losses.objectives[name], msg=name)


def test_full_steps_that_processes_cannot_share_are_a_mistake_with_a_way_out() -> None:
    for sizes in ((16, 8, 1), (9, 4, 1), (16, 8, 2), (16, 2, 4), (12, 2, 3)):
        check_pair_shares(*sizes)
    with pytest.raises(
        UserMistake, match="4 processes cannot share the 16 pairs of a step in micro-batches of 8"
    ) as few:
        check_pair_shares(16, 8, 4)
    assert few.value.where == "rl.reward_model.pairs_per_micro_batch"
    assert few.value.hint == "--set rl.reward_model.pairs_per_micro_batch=4: the steps stay the same"
    check_pair_shares(16, 4, 4)
    with pytest.raises(UserMistake, match="3 processes cannot share the 16 pairs of a step") as odd:
        check_pair_shares(16, 1, 3)
    assert odd.value.where == "rl.reward_model.pairs_per_step"
    assert "as many processes as divide 16" in odd.value.hint


@given(st.integers(1, 60), st.integers(1, 16), st.integers(2, 6))
def test_the_hinted_micro_batch_is_shared_and_is_the_largest(step: int, micro_pairs: int, world_size: int) -> None:
    shared = [pairs for pairs in range(1, micro_pairs + 1) if step % (world_size * pairs) == 0]
    if micro_pairs in shared:
        check_pair_shares(step, micro_pairs, world_size)
        return
    with pytest.raises(UserMistake) as caught:
        check_pair_shares(step, micro_pairs, world_size)
    if shared:
        assert f"rl.reward_model.pairs_per_micro_batch={max(shared)}:" in caught.value.hint
    else:
        assert caught.value.where == "rl.reward_model.pairs_per_step"


def test_what_does_not_fit_names_the_setting_in_pairs() -> None:
    error = pairs_too_large(6)
    assert isinstance(error, MicroBatchTooLarge)
    assert (error.where, error.fewer, error.exit_code) == ("rl.reward_model.pairs_per_micro_batch", 3, 75)
    assert error.what == "out of memory with 6 pairs in a micro-batch"
    assert error.remedy == "out of memory: micro-batch 6 -> 3 pairs, accumulation x2"
    assert error.hint == "the same command with --set rl.reward_model.pairs_per_micro_batch=3: the steps stay the same"
    last = pairs_too_large(1)
    assert isinstance(last, OutOfMemory)
    assert last.exit_code == 1

"""Checks before the first step and during the first hundred: cheap, and each says what is wrong and what to do."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from dreamlm.core.errors import TrainingFailed
from dreamlm.core.inference import inference
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.training.backend.backend import Backend, real_targets
from dreamlm.core.types import Batch

EARLY_STEPS = 100
MOVING_STEPS = 10
INITIAL_LOSS_TOLERANCE = 0.02
MEASURED_TOKENS = 2048


def check_batch(batch: Batch, vocab_size: int, padding_id: int) -> None:
    """Raises: TrainingFailed when the batch is all padding, or holds ids that the tokenizer does not have."""
    if real_targets(batch) == 0 or bool((batch.tokens == padding_id).all()):
        raise TrainingFailed("the first batch is all padding", hint="dreamlm prepare --explain shows the corpus")
    largest = int(batch.tokens.max())
    if largest >= vocab_size:
        raise TrainingFailed(
            f"the corpus holds token id {largest}, the tokenizer has {vocab_size} ids: they do not belong together",
            hint="delete the corpus folder and run dreamlm prepare again",
        )


def check_initial_loss(backend: Backend, seq_length: int) -> None:
    """A fresh model knows nothing: its loss on uniformly random tokens must be ln V.

    Random tokens, because a text of few different words would measure those words.  Collective under sharding.
    Raises: TrainingFailed when it is off by over 2 %.
    """
    vocab_size = backend.model.vocab_size
    random = torch.Generator().manual_seed(0)
    rows = -(-MEASURED_TOKENS // seq_length)
    tokens = torch.randint(0, vocab_size, (rows, seq_length + 1), generator=random).to(backend.device)
    with inference(backend.model), backend.autocast():
        documents = torch.zeros_like(tokens)
        signal = backend.model(tokens[:, :-1], documents[:, :-1], backend.model.start(rows, False), boundaries=False)
        nll = backend.model.head.token_nll(signal.hidden.flatten(0, 1), tokens[:, 1:].flatten()).mean().item()
    expected = math.log(vocab_size)
    if not abs(nll - expected) <= INITIAL_LOSS_TOLERANCE * expected:
        raise TrainingFailed(
            f"the loss of the fresh model is {nll:.4f}, not within 2 % of ln {vocab_size} = {expected:.4f}",
            hint="the initialisation is broken: look at the scales of the embedding and of the layers' outputs",
        )


def may_rest(model: DreamLM) -> tuple[str, ...]:
    """How the names of parameters begin that the first steps need not change.

    A causal model reads its mask vector only where augmentation has dropped a token, and a module whose losses begin
    late may have parts that only they reach.
    """
    mask = ("mask_vector",) if model.config.diffusion is None else ()
    late = [f"cognition.{index}." for index, one in enumerate(model.config.modules) if one.loss_start]
    return (*mask, *late)


def weight_sums(model: nn.Module, leave_out: tuple[str, ...] = ()) -> dict[str, tuple[float, float]]:
    """Sum and sum of squares, in fp64, of each trainable parameter that this process holds.

    leave_out: how names begin that are not wanted.
    """
    return {
        name: (p.detach().double().sum().item(), p.detach().double().square().sum().item())
        for name, p in model.named_parameters()
        if p.requires_grad and p.numel() and not name.startswith(leave_out)
    }


def check_weights_moved(before: dict[str, tuple[float, float]], model: nn.Module) -> None:
    """Raises: TrainingFailed naming the parameters that the first steps left as they were."""
    now = weight_sums(model)
    still = [name for name, sums in before.items() if now[name] == sums]
    if still:
        raise TrainingFailed(
            f"{MOVING_STEPS} optimizer steps did not change {len(still)} of {len(before)} parameters: "
            + ", ".join(still[:5]),
            hint="a parameter without gradient does nothing: remove what owns it from the preset; "
            "when it is all of them, the learning rate is too small to be seen in fp32",
        )


def check_loss_falls(early_losses: Sequence[float]) -> None:
    """Raises: TrainingFailed when the last tenth of the early losses is not below the first."""
    tenth = max(1, len(early_losses) // 10)
    first, last = sum(early_losses[:tenth]) / tenth, sum(early_losses[-tenth:]) / tenth
    if not last < first:
        raise TrainingFailed(
            f"after {len(early_losses)} steps the loss has not fallen: {first:.4f} at first, {last:.4f} now",
            where="train.optimizer.learning_rate",
            hint="try a learning rate ten times smaller; --set train.sanity_checks=false turns this check off",
        )

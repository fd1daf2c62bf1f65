"""Checks before the first step and during the first hundred: cheap, and each says what is wrong and what to do."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dreamlm.core.errors import TrainingFailed
from dreamlm.core.inference import inference
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.objectives.diffusion import blocks_of, fill_in, read_clean
from dreamlm.core.training.backend.backend import Backend, real_targets
from dreamlm.core.types import Batch, ImageForm

EARLY_STEPS = 100
MOVING_STEPS = 10
INITIAL_LOSS_TOLERANCE = 0.02
MEASURED_TOKENS = 2048
PREPARE_AGAIN = "delete the corpus folder and run dreamlm prepare again"


def check_batch(batch: Batch, vocab_size: int, padding_id: int, form: ImageForm | None = None) -> None:
    """Raises: TrainingFailed when the batch is all padding, holds ids that the tokenizer does not have, or pictures in
    another form than the model takes them.
    """
    if real_targets(batch) == 0 or bool((batch.tokens == padding_id).all()):
        raise TrainingFailed("the first batch is all padding", hint="dreamlm prepare --explain shows the corpus")
    largest = int(batch.tokens.max())
    if largest >= vocab_size:
        raise TrainingFailed(
            f"the corpus holds token id {largest}, the tokenizer has {vocab_size} ids: they do not belong together",
            hint=PREPARE_AGAIN,
        )
    places, most = -int(batch.tokens.min()), form.places if form else 0
    if places > most:
        raise TrainingFailed(
            f"the corpus has pictures of {places} places or more, and the model takes pictures of {most}",
            where="model.vision.num_prefix_tokens",
            hint=PREPARE_AGAIN,
        )
    size = batch.pictures.pixels.shape[-1] if batch.pictures else 0
    if form and size not in (0, form.size):
        raise TrainingFailed(
            f"the corpus has pictures of {size} pixels, and the model takes them of {form.size}",
            where="model.vision.image_size",
            hint=PREPARE_AGAIN,
        )


def check_initial_loss(backend: Backend, seq_length: int) -> None:
    """A fresh model knows nothing: its loss on uniformly random tokens must be ln V.

    Random tokens, because a text of few different words would measure those words. A diffusion model is asked for what
    is hidden in blocks half of which is shown.  Collective under sharding.
    Raises: TrainingFailed when it is off by over 2 %.
    """
    vocab_size = backend.model.vocab_size
    random = torch.Generator().manual_seed(0)
    rows = -(-MEASURED_TOKENS // seq_length)
    tokens = torch.randint(0, vocab_size, (rows, seq_length + 1), generator=random).to(backend.device)
    with inference(backend.model), backend.autocast():
        predicted = _next_tokens if backend.model.config.diffusion is None else _half_blocks
        nll = backend.model.head.token_nll(*predicted(backend.model, tokens)).mean().item()
    expected = math.log(vocab_size)
    if not abs(nll - expected) <= INITIAL_LOSS_TOLERANCE * expected:
        raise TrainingFailed(
            f"the loss of the fresh model is {nll:.4f}, not within 2 % of ln {vocab_size} = {expected:.4f}",
            hint="the initialisation is broken: look at the scales of the embedding and of the layers' outputs",
        )


def _next_tokens(model: DreamLM, tokens_BX: Tensor) -> tuple[Tensor, Tensor]:
    """The vectors that predict the next token of one document in each row, and those tokens."""
    documents_BT = torch.zeros_like(tokens_BX[:, :-1])
    signal = model(tokens_BX[:, :-1], documents_BT, model.start(len(tokens_BX), records=False), boundaries=False)
    return signal.hidden.flatten(0, 1), tokens_BX[:, 1:].flatten()


def _half_blocks(model: DreamLM, tokens_BX: Tensor) -> tuple[Tensor, Tensor]:
    """The same for the first half of each block, hidden as training hides tokens."""
    documents_BX = torch.zeros_like(tokens_BX)
    blocks = blocks_of(model, tokens_BX, documents_BX, filler_id=0)
    hidden_BN = blocks.masked((blocks.size_U + 1) // 2, blocks.column_BN.float())
    noisy = fill_in(model, blocks, hidden_BN, read_clean(model, tokens_BX, documents_BX, boundaries=False))
    return noisy.hidden[hidden_BN], blocks.target_BN[hidden_BN]


BY_CHANCE = ("vision.blank", "vision.noise.", "vision.contrast.")


def may_rest(model: DreamLM) -> tuple[str, ...]:
    """How the names of parameters begin that the first steps need not change.

    A model that takes one token after another reads its mask vector only where augmentation has dropped a token, and a
    module whose losses begin late may have parts that only they reach. Of what sees, some parts are read by chance, or
    where one batch has two captions; all of it may rest where nothing was looked at (`check_weights_moved`).
    """
    mask = ("mask_vector",) if model.config.block == 1 else ()
    late = [f"cognition.{index}." for index, one in enumerate(model.config.modules) if one.loss_start]
    return (*mask, *late, *BY_CHANCE)


def weight_sums(model: nn.Module, leave_out: tuple[str, ...] = ()) -> dict[str, tuple[float, float]]:
    """Sum and sum of squares, in fp64, of each trainable parameter that this process holds.

    leave_out: how names begin that are not wanted.
    """
    return {
        name: (p.detach().double().sum().item(), p.detach().double().square().sum().item())
        for name, p in model.named_parameters()
        if p.requires_grad and p.numel() and not name.startswith(leave_out)
    }


def check_weights_moved(
    before: dict[str, tuple[float, float]], model: DreamLM, looked: bool = True, stages_follow: bool = False
) -> str:
    """What to say of parameters that the first steps left as they were, but a later stage may reach.

    looked: whether those steps had any picture to look at.  stages_follow: whether a curriculum has more stages.
    Raises: TrainingFailed naming those that nothing will reach.
    """
    now = weight_sums(model)
    still = [name for name, sums in before.items() if now[name] == sums and (looked or not name.startswith("vision."))]
    staged = [f"cognition.{index}." for index, one in enumerate(model.config.modules) if one.has_stages]
    if stages_follow and still and all(name.startswith(tuple(staged)) for name in still):
        return f"{MOVING_STEPS} steps of this stage did not change {', '.join(still[:5])}: a later one has to"
    if still:
        raise TrainingFailed(
            f"{MOVING_STEPS} optimizer steps did not change {len(still)} of {len(before)} parameters: "
            + ", ".join(still[:5]),
            hint="a parameter without gradient does nothing: remove what owns it from the preset; "
            "a module that never read two things at once needs longer documents, or a shorter model.segment_length; "
            "when it is all of them, the learning rate is too small to be seen in fp32",
        )
    return ""


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

"""A stage of a curriculum says whether a model looks at pictures."""

from collections.abc import Callable

import pytest
import torch
from picture_models import ENCODERS, VOCAB, batch_of, logits, pixels, seeing_model

from dreamlm.core.modules.stage import Stage
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.vision.view import Sight
from dreamlm.core.objectives.causal import CausalObjective

ROWS = (["P", 5, 6, 7], ["P", 8, 9, 4])
BLIND = Stage(dream_length=1, num_dream_sequences=1, graph_reasoning_hops=1)
SEEING = BLIND.model_copy(update={"images": True})


def objectives(model: DreamLM, seed: int = 3) -> dict[str, float]:
    tokens, documents, of = batch_of(*ROWS)
    with torch.no_grad():
        losses = CausalObjective(model, 0.0)(tokens, documents, True, Sight(pixels(model, 2, seed), of))
    return {name: loss.item() for name, loss in losses.objectives.items()}


def built_in(stage: Stage) -> DreamLM:
    model = seeing_model("lite")
    torch.manual_seed(0)
    return model.config.model_copy(update={"stage": stage}).build(VOCAB).eval()


def entered(stage: Stage) -> DreamLM:
    model = seeing_model("lite")
    model.enter(stage)
    return model


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_stage_without_images_reads_places_as_if_there_was_no_picture(encoder: str) -> None:
    model = seeing_model(encoder)
    tokens, documents, of = batch_of(*ROWS)
    sight = Sight(pixels(model, 2), of)
    seen, unseen = logits(model, tokens, documents, sight), logits(model, tokens, documents, None)
    assert not torch.allclose(seen, unseen)
    model.enter(BLIND)
    assert torch.equal(logits(model, tokens, documents, sight), unseen)
    model.enter(SEEING)
    assert torch.equal(logits(model, tokens, documents, sight), seen)


@pytest.mark.parametrize("begin", [entered, built_in])
def test_only_a_stage_with_images_compares_and_learns_from_them(begin: Callable[[Stage], DreamLM]) -> None:
    blind, seeing = begin(BLIND), begin(SEEING)
    assert (blind.config.stage, seeing.config.stage) == (BLIND, SEEING)
    assert objectives(blind).keys() == {"token"}
    assert objectives(blind) == objectives(blind, seed=4)
    assert objectives(seeing) == objectives(seeing_model("lite"))
    assert objectives(seeing)["contrastive"] > 0
    assert objectives(seeing)["token"] != objectives(seeing, seed=4)["token"]

"""A curriculum has to fit a model that its stages change: one with a module like dreaming, or one that sees."""

import json

import pytest

from dreamlm.core.errors import PresetError
from dreamlm.presets.resolve import resolve

SIZES = {"dream_length": 2, "num_dream_sequences": 2, "graph_reasoning_hops": 1}
STAGES = [{"name": "text", "steps": 2, **SIZES}, {"name": "pictures", "steps": 2, **SIZES, "images": True}]
STAGED = f"train.curriculum={json.dumps(STAGES)}"
LITE, BLIND, BARE = "model.vision=lite", "model.vision=null", "model.modules=[]"
SEGMENTS = "model.segment_length=16"
DREAMING, STACK = 'model.modules=["dreaming"]', 'model.modules=["thought_stack"]'
ELSEWHERE = "model.init_from=elsewhere"


@pytest.mark.parametrize(
    "sets",
    [
        [LITE],
        [LITE, SEGMENTS, STACK],
        [DREAMING, SEGMENTS],
        [LITE, DREAMING, SEGMENTS],
        # The model to start from may see, or dream.
        [ELSEWHERE],
        [ELSEWHERE, LITE],
        [ELSEWHERE, BLIND],
        [ELSEWHERE, BARE],
        [ELSEWHERE, SEGMENTS, STACK],
    ],
    ids=" ".join,
)
def test_stages_that_change_something_are_taken(sets: list[str]) -> None:
    assert len(resolve("tiny", [STAGED, *sets]).train.curriculum) == 2


@pytest.mark.parametrize(
    ("sets", "modules"),
    [
        ([], "none"),
        ([SEGMENTS, STACK], "thought_stack"),
        ([ELSEWHERE, BLIND, BARE], "none"),
        ([ELSEWHERE, BLIND, SEGMENTS, STACK], "thought_stack"),
    ],
)
def test_stages_that_change_nothing_are_refused(sets: list[str], modules: str) -> None:
    with pytest.raises(PresetError) as caught:
        resolve("tiny", [STAGED, *sets])
    [mistake] = caught.value.mistakes
    assert mistake.key == "train.curriculum"
    assert mistake.message == (
        f"changes nothing in this model: a module like dreaming has stages, not those of model.modules ({modules}), "
        "and so has model.vision, which is null"
    )

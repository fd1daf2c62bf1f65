"""Who looks on while a model writes sees every segment once, with what the model made of it."""

import pytest
import torch
from dreaming_models import SEGMENT, dreamer
from sharp_models import sharp_model

from dreamlm.core.generation.generate import generate
from dreamlm.core.generation.row import Generation
from dreamlm.core.generation.sampler import Sampler
from dreamlm.core.generation.segments import CompletedSegments, Passage
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.tokenizer import Tokenizer

PROMPTS = ["The sea", "", "The sea was calm that night, and the captain", "night, and the sea is never calm"]
MODULE = "dreaming"


def watched(
    model: DreamLM, tokenizer: Tokenizer, first_prompt: int = 0, prompts: list[str] = PROMPTS, **settings: object
) -> tuple[list[Generation], dict[int, list[tuple[Passage, torch.Tensor]]]]:
    """The texts, and by prompt the passages with the memory that their rows held."""
    values = {"temperature": 1.2, "top_p": 0.97, "max_new_tokens": 40, "seed": 3, **settings}
    seen: dict[int, list[tuple[Passage, torch.Tensor]]] = {}

    def look(completed: CompletedSegments) -> None:
        memory = completed.carry.states[MODULE].memory["reasoning"]
        for passage, row in zip(completed.passages, completed.rows, strict=True):
            seen.setdefault(passage.prompt, []).append((passage, memory[row].clone()))

    texts = generate(
        model, tokenizer, prompts, Sampler.Config.model_validate(values), on_segments=look, first_prompt=first_prompt
    )
    return texts, seen


@torch.no_grad()
def memory_after(model: DreamLM, ids: list[int]) -> torch.Tensor:
    """What one pass over the tokens of one text leaves behind."""
    tokens = torch.tensor([ids])
    return model(tokens, torch.zeros_like(tokens), model.start(1)).carry.states[MODULE].memory["reasoning"][0]


CASES = [
    pytest.param({}, {}, id="causal"),
    pytest.param({"seq_length": 24}, {}, id="outgrows the window"),
    pytest.param({"block": 4}, {}, id="diffusion"),
    pytest.param({"block": 4, "seq_length": 24}, {"denoising": {"steps": 2}}, id="diffusion outgrows the window"),
    pytest.param({}, {"stop": ("t", "e"), "min_new_tokens": 0}, id="rows leave"),
]


@pytest.mark.parametrize(("shape", "settings"), CASES)
def test_each_segment_is_told_with_its_tokens_and_what_one_pass_over_them_leaves(
    tokenizer: Tokenizer, shape: dict[str, int], settings: dict[str, object]
) -> None:
    model = dreamer(tokenizer.vocab_size, **shape)
    texts, seen = watched(model, tokenizer, **settings)
    readings = set()
    for number, text in enumerate(texts):
        prompt = [tokenizer.end_of_document_id, *tokenizer.encode(text.prompt)]
        ids, last = [*prompt, *text.token_ids], None
        for passage, memory in seen.get(number, []):
            origin, end = passage.begin - SEGMENT * passage.number, passage.begin + SEGMENT
            assert passage.token_ids == tuple(ids[passage.begin : end])
            assert passage.prompt_tokens == min(SEGMENT, max(0, len(prompt) - passage.begin))
            torch.testing.assert_close(memory, memory_after(model, ids[origin:end]), atol=1e-4, rtol=1e-4)
            if last is not None and last.reading == passage.reading:
                assert (passage.number, passage.begin) == (last.number + 1, last.begin + SEGMENT)
            elif last is not None:
                assert (passage.reading, passage.number) == (last.reading + 1, 0)
                assert passage.begin > last.begin - SEGMENT * last.number
            else:
                assert (passage.reading, passage.number) == (0, 0)
            readings.add(passage.reading)
            last = passage
    assert seen
    assert (len(readings) > 1) == ("seq_length" in shape)


def test_every_segment_that_was_read_is_told(tokenizer: Tokenizer) -> None:
    texts, seen = watched(dreamer(tokenizer.vocab_size), tokenizer, min_new_tokens=40)
    for number, text in enumerate(texts):
        # The last token was chosen and not read.
        read = 1 + len(tokenizer.encode(text.prompt)) + 39
        assert len(seen[number]) == read // SEGMENT


@pytest.mark.parametrize("shape", [{}, {"seq_length": 24}, {"block": 4, "seq_length": 24}], ids=str)
def test_what_is_told_of_a_text_does_not_depend_on_its_neighbours(tokenizer: Tokenizer, shape: dict[str, int]) -> None:
    model = dreamer(tokenizer.vocab_size, **shape)
    _, together = watched(model, tokenizer)
    for number, prompt in enumerate(PROMPTS):
        _, alone = watched(model, tokenizer, first_prompt=number, prompts=[prompt])
        assert [passage for passage, _ in alone[number]] == [passage for passage, _ in together[number]]
        for (_, one), (_, other) in zip(alone[number], together[number], strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", [{}, {"seq_length": 24}, {"block": 4}], ids=str)
def test_looking_on_changes_no_text(tokenizer: Tokenizer, shape: dict[str, int]) -> None:
    model = dreamer(tokenizer.vocab_size, **shape)
    config = Sampler.Config(temperature=1.2, top_p=0.97, max_new_tokens=40, seed=3)
    assert watched(model, tokenizer)[0] == generate(model, tokenizer, PROMPTS, config)


def test_a_model_without_modules_has_nothing_to_tell(tokenizer: Tokenizer) -> None:
    told: list[CompletedSegments] = []
    model = sharp_model(tokenizer.vocab_size)
    generate(model, tokenizer, PROMPTS, Sampler.Config(max_new_tokens=4), on_segments=told.append)
    assert told == []

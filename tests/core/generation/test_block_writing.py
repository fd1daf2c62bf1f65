"""How a diffusion model writes: block by block, whatever it is batched with, under the same rules as any other."""

import itertools
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch

from dreamlm.core.errors import RangeError
from dreamlm.core.generation.blocks import left_open
from dreamlm.core.generation.filling import BlockView
from dreamlm.core.generation.generate import Generation, generate
from dreamlm.core.generation.ngram import NgramHoles
from dreamlm.core.generation.sampler import Sampler
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.denoising import denoise
from dreamlm.core.nn.slots import Slots
from dreamlm.core.tokenizer import Tokenizer

MODULES = ((), ("segment_summary",), ("thought_stack",))
PROMPTS = ["The sea", "", "The sea was calm that night, and the captain said", "night, and the sea is never calm"]


def diffuser(
    tokenizer: Tokenizer, block: int, seq_length: int = 64, modules: tuple[str, ...] = (), steps: int | None = None
) -> DreamLM:
    torch.manual_seed(5)
    values = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "seq_length": seq_length}
    segments = {"modules": modules, "segment_length": 8} if modules else {}
    config = {**values, **segments, "diffusion": {"block_size": block, "num_diffusion_steps": steps}}
    built = DreamLM.Config.model_validate(config).build(tokenizer.vocab_size)
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    return built


def without_diffusion(model: DreamLM) -> DreamLM:
    plain = model.config.model_copy(update={"diffusion": None}).build(model.vocab_size)
    plain.load_state_dict(model.state_dict(), strict=False)
    return plain


def sampling(**settings: object) -> Sampler.Config:
    return Sampler.Config.model_validate({"temperature": 1.0, "top_p": 0.9, "max_new_tokens": 30, **settings})


@pytest.mark.parametrize("modules", MODULES, ids=str)
@pytest.mark.parametrize(
    "settings",
    [{}, {"greedy": True}, {"no_repeat_ngram": 2}, {"min_new_tokens": 25, "stop": ("t",)}, {"rows": 1}],
    ids=str,
)
def test_with_blocks_of_one_token_it_writes_what_the_causal_model_writes(
    tokenizer: Tokenizer, settings: dict[str, object], modules: tuple[str, ...]
) -> None:
    model = diffuser(tokenizer, 1, modules=modules)
    expected = generate(without_diffusion(model), tokenizer, PROMPTS, sampling(**settings))
    found = generate(model, tokenizer, PROMPTS, sampling(**settings))
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    assert [one.finish_reason for one in found] == [one.finish_reason for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.mean_log_probability == pytest.approx(other.mean_log_probability, abs=1e-4)


@pytest.mark.parametrize("modules", MODULES, ids=str)
@pytest.mark.parametrize("steps", [1, 3, 8])
def test_a_text_does_not_depend_on_its_batch(tokenizer: Tokenizer, steps: int, modules: tuple[str, ...]) -> None:
    model = diffuser(tokenizer, 8, modules=modules)
    together, alone = (
        generate(model, tokenizer, PROMPTS, sampling(rows=rows, denoising={"steps": steps})) for rows in (4, 1)
    )
    assert [one.text for one in together] == [one.text for one in alone]
    assert len({one.text for one in together}) == len(PROMPTS)


def test_in_one_step_every_slot_takes_its_likeliest_token(tokenizer: Tokenizer) -> None:
    model = diffuser(tokenizer, 8)
    config = sampling(greedy=True, max_new_tokens=8, min_new_tokens=8, denoising={"steps": 1})
    [found] = generate(model, tokenizer, [""], config)
    tokens = torch.tensor([[tokenizer.end_of_document_id, *[model.mask_id] * 7]])
    places = torch.arange(8)[None]
    slots = Slots(tokens, torch.zeros_like(tokens), places, torch.zeros_like(tokens))
    carry = model.start(1)
    with torch.no_grad():
        logits = model.logits(denoise(model, slots, carry, [carry]).hidden)[0]
    logits[:, [tokenizer.padding_id, tokenizer.end_of_document_id]] = -torch.inf
    assert list(found.token_ids) == logits.argmax(dim=-1).tolist()


def test_more_steps_read_what_earlier_steps_decided(tokenizer: Tokenizer) -> None:
    model = diffuser(tokenizer, 8)
    texts = {
        steps: generate(model, tokenizer, PROMPTS, sampling(greedy=True, denoising={"steps": steps}))
        for steps in (1, 2, 8, 99)
    }
    assert texts[1] != texts[2] != texts[8]
    assert texts[99] == texts[8]


@pytest.mark.parametrize("confidence", ["probability", "entropy"])
def test_no_ngram_comes_twice_in_whatever_order_it_is_filled(tokenizer: Tokenizer, confidence: str) -> None:
    model = diffuser(tokenizer, 8, seq_length=128)
    settings = {"temperature": 0.3, "max_new_tokens": 60, "denoising": {"confidence": confidence, "steps": 3}}
    for scope in ("all", "output"):
        config = sampling(no_repeat_ngram=2, ngram_scope=scope, **settings)
        for one in generate(model, tokenizer, PROMPTS, config):
            prompt = tokenizer.encode(one.prompt) if scope == "all" else []
            ids = [*prompt, *one.token_ids]
            new = {tuple(ids[at : at + 2]) for at in range(max(0, len(prompt) - 1), len(ids) - 1)}
            assert len(new) == len(ids) - 1 - max(0, len(prompt) - 1)
    free = generate(model, tokenizer, PROMPTS, sampling(**settings))
    assert any(len(set(zip(one.token_ids, one.token_ids[1:], strict=False))) < len(one.token_ids) - 1 for one in free)


def test_holes_know_ngrams_on_both_sides() -> None:
    holes = NgramHoles(2, [1, 2, 3], 4)
    assert not holes.repeats(1, 2)
    holes.put(1, 2)
    assert holes.repeats(0, 1)  # 1 2 again
    assert holes.repeats(2, 3)  # 2 3 again
    assert not holes.repeats(2, 2)
    holes.put(2, 2)
    assert holes.repeats(3, 2)  # 2 2 again
    assert NgramHoles(2, [], 3).repeats(0, 5) is False
    both = NgramHoles(2, [], 3)
    both.put(0, 7)
    both.put(2, 7)
    assert both.repeats(1, 7)  # 7 7 twice at once


def test_pieces_join_to_the_text_and_stops_cut_it(tokenizer: Tokenizer) -> None:
    model = diffuser(tokenizer, 8)
    pieces: dict[int, str] = {}

    def hear(prompt: int, piece: str) -> None:
        pieces[prompt] = pieces.get(prompt, "") + piece

    texts = generate(model, tokenizer, PROMPTS, sampling(stop=("e",), max_new_tokens=60), hear)
    assert [pieces.get(number, "") for number in range(4)] == [one.text for one in texts]
    assert all("e" not in one.text for one in texts)
    assert any(one.finish_reason == "stop" for one in texts)


def test_lengths_are_kept(tokenizer: Tokenizer) -> None:
    model = diffuser(tokenizer, 8)
    config = sampling(min_new_tokens=21, max_new_tokens=21, denoising={"steps": 2})
    assert [len(one.token_ids) for one in generate(model, tokenizer, PROMPTS, config)] == [21] * 4


@pytest.mark.parametrize("modules", MODULES, ids=str)
def test_a_text_may_outgrow_the_window(tokenizer: Tokenizer, modules: tuple[str, ...]) -> None:
    model = diffuser(tokenizer, 8, seq_length=32, modules=modules)
    config = sampling(min_new_tokens=100, max_new_tokens=100, denoising={"steps": 2})
    together = generate(model, tokenizer, [*PROMPTS, "sea " * 60], config)
    assert [len(one.token_ids) for one in together] == [100] * 5
    assert together[-1].dropped_prompt_tokens > 0
    alone = [generate(model, tokenizer, [one], config, first_prompt=at)[0] for at, one in enumerate(PROMPTS)]
    assert [one.text for one in together[:4]] == [one.text for one in alone]


def test_a_window_without_room_for_a_block_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(RangeError, match="impossible"):
        generate(diffuser(tokenizer, 8), tokenizer, ["sea"], sampling(), window=7)


def test_the_temperature_falls_evenly_towards_the_end_of_a_block(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, build, temperatures = diffuser(tokenizer, 8), Sampler.Config.build, []

    def noted(config: Sampler.Config) -> Sampler:
        temperatures.append(config.temperature)
        return build(config)

    monkeypatch.setattr(Sampler.Config, "build", noted)
    for steps, expected in ((1, [5.0]), (3, [5.0, 3.0, 1.0])):
        temperatures.clear()
        falling = {"steps": steps, "final_temperature": 0.2}
        length = {"max_new_tokens": 8, "min_new_tokens": 8}
        generate(model, tokenizer, [""], sampling(temperature=5.0, denoising=falling, **length))
        assert temperatures[-len(expected) :] == pytest.approx(expected)


def test_a_falling_temperature_changes_what_later_steps_choose(tokenizer: Tokenizer) -> None:
    model = diffuser(tokenizer, 8)

    def written(steps: int, final_temperature: float) -> list[Generation]:
        denoising = {"steps": steps, "final_temperature": final_temperature}
        return generate(model, tokenizer, PROMPTS, sampling(temperature=5.0, denoising=denoising))

    assert written(8, 0.01) != written(8, 1.0)
    assert written(1, 0.01) == written(1, 1.0)  # the only step is the first, which is hot
    assert written(99, 0.01) == written(8, 0.01)  # of the steps that a block has no tokens for, none is waited for


def test_a_temperature_that_fp32_takes_for_0_chooses_as_greedy_does(tokenizer: Tokenizer) -> None:
    model = diffuser(tokenizer, 8)
    cold = generate(model, tokenizer, PROMPTS, sampling(temperature=1e-46, denoising={"final_temperature": 0.5}))
    assert cold == generate(model, tokenizer, PROMPTS, sampling(greedy=True))


class Onlooker:
    """Keeps what it is shown, and spoils nothing by it."""

    def __init__(self) -> None:
        self.seen: list[list[BlockView]] = []

    def __call__(self, blocks: Sequence[BlockView]) -> None:
        self.seen.append([*blocks])
        torch.rand(3)

    def of(self, prompt: int) -> list[BlockView]:
        return [block for blocks in self.seen for block in blocks if block.prompt == prompt]


@pytest.mark.parametrize("rows", [1, 4])
def test_who_looks_on_changes_nothing_and_sees_every_token_appear_once(tokenizer: Tokenizer, rows: int) -> None:
    model, onlooker = diffuser(tokenizer, 8), Onlooker()
    config = sampling(rows=rows, denoising={"steps": 3})
    texts = generate(model, tokenizer, PROMPTS, config, on_blocks=onlooker)
    assert texts == generate(model, tokenizer, PROMPTS, config)
    for prompt, text in enumerate(texts):
        views = onlooker.of(prompt)
        written: list[int] = []
        for number in range(views[-1].number + 1):
            steps = [view for view in views if view.number == number]
            assert [view.step for view in steps] == [*range(len(steps))]
            assert {view.steps for view in steps} == {3}
            assert set(steps[0].token_ids) == {None}
            for before, after in pairwise(steps):
                assert all(old in (None, new) for old, new in zip(before.token_ids, after.token_ids, strict=True))
            assert None not in steps[-1].token_ids
            for view in steps:
                assert [p > 0 for p in view.probabilities] == [token is not None for token in view.token_ids]
                assert max(view.probabilities) <= 1
            written += [token for token in steps[-1].token_ids if token is not None]
        assert tuple(written[: len(text.token_ids)]) == text.token_ids


@pytest.mark.parametrize(("confidence", "first"), [("probability", [0, 2, 4, 6]), ("entropy", [1, 3, 5, 7])])
def test_surer_tokens_appear_first(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, confidence: str, first: list[int]
) -> None:
    """Even slots have one likely token among all others, odd ones three that are less likely each, and nothing else."""
    model, onlooker, logits = diffuser(tokenizer, 8), Onlooker(), DreamLM.logits

    def by_hand(hidden: torch.Tensor) -> torch.Tensor:
        found = logits(model, hidden)
        if len(found) == 8:  # all open
            found[::2], found[1::2] = 0.0, -torch.inf
            found[::2, 65] = torch.tensor(float(tokenizer.vocab_size)).log()
            found[1::2, 65:68] = 0.0
        return found

    monkeypatch.setattr(model, "logits", by_hand)
    denoising = {"steps": 2, "confidence": confidence}
    config = sampling(greedy=True, max_new_tokens=8, min_new_tokens=8, denoising=denoising)
    generate(model, tokenizer, [""], config, on_blocks=onlooker)
    assert [place for place, token in enumerate(onlooker.of(0)[1].token_ids) if token is not None] == first


@pytest.mark.parametrize(("own", "asked", "expected"), [(3, None, 3), (3, 2, 2), (None, None, 8), (99, None, 8)])
def test_a_block_takes_the_models_own_steps_unless_others_are_asked_for(
    tokenizer: Tokenizer, own: int | None, asked: int | None, expected: int
) -> None:
    model, onlooker = diffuser(tokenizer, 8, steps=own), Onlooker()
    length = {"max_new_tokens": 8, "min_new_tokens": 8}
    generate(model, tokenizer, [""], sampling(denoising={"steps": asked}, **length), on_blocks=onlooker)
    assert [(view.step, view.steps) for view in onlooker.of(0)] == [(step, expected) for step in range(expected + 1)]


def test_slots_are_spread_evenly_over_the_steps() -> None:
    for size, steps in itertools.product(range(2, 129), range(1, 129)):
        still_open = [size, *(left_open(size, step, steps) for step in range(steps))]
        decided = [before - after for before, after in pairwise(still_open)]
        assert sum(decided) == size
        assert set(decided) <= {size // steps, -(-size // steps)}  # rounded down, rounded up


@pytest.mark.parametrize(("size", "steps"), [(5, 5), (12, 12), (20, 20), (20, 10), (24, 12), (17, 7)])
def test_a_block_is_written_in_as_many_steps_as_were_asked_for(tokenizer: Tokenizer, size: int, steps: int) -> None:
    model, onlooker = diffuser(tokenizer, size, seq_length=2 * size), Onlooker()
    config = sampling(max_new_tokens=size, min_new_tokens=size, denoising={"steps": steps})
    generate(model, tokenizer, [""], config, on_blocks=onlooker)
    open_slots = [view.token_ids.count(None) for view in onlooker.of(0)]
    decided = [before - after for before, after in pairwise(open_slots)]
    assert len(decided) == steps
    assert set(decided) <= {size // steps, -(-size // steps)}


def test_a_causal_model_shows_no_blocks(tokenizer: Tokenizer) -> None:
    onlooker = Onlooker()
    generate(without_diffusion(diffuser(tokenizer, 1)), tokenizer, PROMPTS, sampling(), on_blocks=onlooker)
    assert onlooker.seen == []


def test_behind_an_end_nothing_is_written_and_filler_is_read_as_in_training(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A document that ends in the third slot of a block of eight: the five behind it need no step."""
    model, onlooker, end = diffuser(tokenizer, 8), Onlooker(), tokenizer.end_of_document_id
    logits, read = model.logits, []

    def sure_of_the_end(hidden: torch.Tensor) -> torch.Tensor:
        found = logits(hidden)
        if len(found) == 8:  # all open
            found[2, end] = 100.0
        return found

    def noted(*arguments: Any) -> Any:
        read.append(arguments[1].tokens_BN[0].tolist())
        return denoise(*arguments)

    monkeypatch.setattr(model, "logits", sure_of_the_end)
    monkeypatch.setattr("dreamlm.core.generation.blocks.denoise", noted)
    [text] = generate(model, tokenizer, [""], sampling(denoising={"steps": 8}), on_blocks=onlooker)
    assert (text.finish_reason, len(text.token_ids)) == ("end", 2)
    assert [len([one for one in view.token_ids if one is None]) for view in onlooker.of(0)] == [8, 2, 1, 0]
    assert read[1][3:] == [end, *[tokenizer.padding_id] * 4]

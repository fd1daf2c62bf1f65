"""The section on diversity, from texts by hand, and from a model's own."""

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from texts_by_hand import text, texts

from dreamlm.core.errors import UserMistake
from dreamlm.core.evaluation.bootstrap import Resampling
from dreamlm.core.evaluation.diversity import Diversity, require_different, written
from dreamlm.core.evaluation.estimates import PerText
from dreamlm.core.evaluation.section import Section
from dreamlm.core.generation.row import Generation
from dreamlm.core.generation.sampler import Sampler
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.tokenizer import BytePair

RESAMPLING = Resampling(confidence=0.95, resamples=500, seed=0)


def measured(found: Sequence[Generation], more: Sequence[PerText] = (), words: int = 4) -> Section:
    return Diversity.Config(words=words).build(RESAMPLING).measure(found, more)


def test_every_figure_by_hand() -> None:
    section = measured(texts("a b a b", "a b c", "", "x x x x x x"), words=6)
    assert section.figure("distinct-1").value == pytest.approx(4 / 13)
    assert section.figure("distinct-2").value == pytest.approx(4 / 10), "ab ba ab | ab bc | xx five times"
    assert section.figure("distinct-3").value == pytest.approx(4 / 7)
    assert section.figure("repetition").value == pytest.approx((0 + 2 / 3) / 2), "two texts have 4-grams at all"
    assert section.figure("entropy").value == pytest.approx(0.8113, abs=1e-4), "abab once, xxxx three times"
    assert section.figure("entropy").unit == "bits of a 4-gram, at most 2.00"


def test_only_the_first_words_of_a_text_are_looked_at() -> None:
    short = measured(texts("a b c d", "e f g h"))
    long = measured(texts("a b c d" + " a" * 50, "e f g h a b c d"))
    assert long.figures == short.figures
    assert (long.details["words"], short.details["words"]) == (8, 8)


def test_texts_that_stay_short_are_counted_and_said_when_they_are_many() -> None:
    some, many = measured(texts("a b c d e", "a")), measured(texts("a b c", "a", "a b c d"))
    assert (some.details["shorter_texts"], some.notes) == (1, ())
    assert many.details["shorter_texts"] == 2
    assert many.notes[0].startswith("2 of 3 texts have fewer than 4 words")


def test_equal_texts_are_less_diverse_than_different_ones_in_every_figure() -> None:
    different = measured(texts(*(f"{letter}1 {letter}2 {letter}3 {letter}4" for letter in "abcdefgh")))
    equal = measured(texts(*["a1 a2 a3 a4"] * 8))
    assert [equal.figure(name).value for name in ("distinct-1", "self-BLEU", "entropy")] == [1 / 8, 1.0, 0.0]
    assert [different.figure(name).value for name in ("distinct-1", "self-BLEU", "entropy")] == [1.0, 0.0, 3.0]


def test_intervals_are_about_prompts_and_of_a_single_prompt_about_its_texts() -> None:
    words = [f"w{number % 5} w{number % 7} w{number % 3} w{number}" for number in range(24)]
    by_prompt = {
        prompts: measured([text(f"p{number % prompts}", one) for number, one in enumerate(words)])
        for prompts in (1, 2, 6, 24)
    }
    intervals = {prompts: section.figure("distinct-1").interval for prompts, section in by_prompt.items()}
    assert intervals[2] is None, "two prompts say too little about others"
    assert intervals[1] == intervals[24] != intervals[6]
    for prompts in (1, 6, 24):
        section = by_prompt[prompts]
        for figure in section.figures:
            if figure.interval is not None and figure.value is not None:
                assert figure.interval.low <= figure.value <= figure.interval.high
    assert by_prompt[6].summary == "24 texts of 6 prompts; 96 words, the first 4 of each text"


def test_a_measure_of_each_text_becomes_the_ratio_of_its_sums() -> None:
    one = PerText("log-likelihood", "nats", [-2.0, -8.0, 0.0], [1, 4, 0], is_share=False)
    figure = measured(texts("a", "b", "c"), [one]).figure("log-likelihood")
    assert (figure.value, figure.unit, figure.interval) == (-2.0, "nats", None)
    nothing = PerText("seen 8-grams", "share", [0, 0, 0], [0, 0, 0])
    assert measured(texts("a", "b", "c"), [nothing]).figure("seen 8-grams").value is None


def test_texts_without_a_word_have_no_figures() -> None:
    section = measured(texts("", " ", ""))
    found = {figure.name: figure.value for figure in section.figures}
    assert found == {
        "distinct-1": None,
        "distinct-2": None,
        "distinct-3": None,
        "self-BLEU": 0.0,
        "entropy": None,
        "repetition": None,
    }


def test_the_seed_changes_intervals_alone() -> None:
    found = texts(*(f"a b {number % 3} {number % 5} {number}" for number in range(8)))
    other = Diversity.Config(words=4).build(dataclasses.replace(RESAMPLING, seed=1)).measure(found)
    assert [one.value for one in other.figures] == [one.value for one in measured(found).figures]


TOKENIZER = BytePair(vocab_size=270).build(["the sea and the ship " * 5])
MODELS = {
    "plain": {},
    "with a module": {"segment_length": 8, "modules": [{"type": "segment_summary"}]},
    "experts": {"feed_forward": {"type": "moe", "num_experts": 4, "top_k": 2}},
    "diffusion": {"segment_length": 8, "diffusion": {"block_size": 4}},
}


def model(kind: str) -> DreamLM:
    torch.manual_seed(0)
    values = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "seq_length": 32, **MODELS[kind]}
    made = DreamLM.Config.model_validate(values).build(TOKENIZER.vocab_size)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return made.eval()


@pytest.mark.parametrize("kind", MODELS)
def test_the_texts_of_any_kind_of_model_are_the_same_in_batches_of_any_size(kind: str) -> None:
    seen: list[tuple[int, int]] = []

    def write(rows: int) -> list[Generation]:
        sampling = Sampler.Config(max_new_tokens=10, temperature=1.0, rows=rows)
        return written(model(kind), TOKENIZER, ["the", "sea and"], 7, sampling, lambda *done: seen.append(done))

    one, three, all_ = write(1), write(3), write(16)
    assert [text.text for text in one] == [text.text for text in three] == [text.text for text in all_]
    assert [text.prompt for text in one] == ["the", "sea and"] * 3 + ["the"]
    assert len({text.text for text in one if text.prompt == "the"}) == 4, "each with chance of its own"
    assert seen[7:10] == [(3, 7), (6, 7), (7, 7)]
    assert measured(one) == measured(three)


def test_greedy_writing_has_one_text_for_each_prompt() -> None:
    greedy = Sampler.Config(greedy=True)
    require_different(greedy, prompts=7, count=7)
    require_different(Sampler.Config(), prompts=1, count=7)
    with pytest.raises(UserMistake, match="one text for each of 2 prompts, 7 are asked for"):
        require_different(greedy, prompts=2, count=7)

"""Dreams in words: which tokens role vectors lie near, and that everything in the carry is told as it stands there."""

from collections.abc import Mapping

import pytest
import torch
from dreaming_models import DREAMS, EXPERTS, SEGMENT, STEPS, dreamer
from sharp_models import sharp_model

from dreamlm.core.errors import UserMistake
from dreamlm.core.generation.dreams import collector
from dreamlm.core.generation.dreams.collector import DreamCollector
from dreamlm.core.generation.dreams.neighbours import Neighbourhood, readable_tokens
from dreamlm.core.generation.dreams.values import DreamtSegment, Edge, Neighbour, Node, Triplet, title, visible
from dreamlm.core.generation.generate import generate
from dreamlm.core.generation.sampler import Sampler
from dreamlm.core.generation.segments import CompletedSegments, Passage
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.tokenizer import Tokenizer

PROMPTS = ["The sea was calm that night", "", "and the old captain said: the sea is never calm"]


def dreamt(
    model: DreamLM, tokenizer: Tokenizer, prompts: list[str] = PROMPTS, rows: int = 8, new_tokens: int = 20
) -> list[tuple[DreamtSegment, Mapping[str, Mapping[str, torch.Tensor]]]]:
    """Each segment with the memories that it was made of."""
    found: list[DreamtSegment] = []
    memories = []
    collect = DreamCollector(model, tokenizer, 4, found.append)

    def look(completed: CompletedSegments) -> None:
        collect(completed)
        for row in completed.rows:
            states = {name: completed.carry.states[name].memory for name in model.config.module_names}
            memories.append({name: {key: value[row] for key, value in one.items()} for name, one in states.items()})

    config = Sampler.Config(max_new_tokens=new_tokens, min_new_tokens=new_tokens, rows=rows, seed=3)
    generate(model, tokenizer, prompts, config, on_segments=look)
    return list(zip(found, memories, strict=True))


def test_the_nearest_tokens_are_those_with_the_largest_cosine() -> None:
    near = Neighbourhood(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, -3.0]]), {0: " a", 4: "b", 7: "c"})
    [found] = near.nearest(torch.tensor([[3.0, 0.3]]), 2)
    assert [(one.id, one.token) for one in found] == [(0, " a"), (4, "b")]
    assert [one.score for one in found] == pytest.approx([1 / 1.01**0.5, 0.1 / 1.01**0.5])
    [everyone] = near.nearest(torch.tensor([[-1.0, -1.0]]), 9)
    assert [one.id for one in everyone] == [7, *sorted(one.id for one in everyone[1:])]
    assert everyone[0].score == pytest.approx(1.0)


def test_tokens_that_are_not_named_do_not_shift_what_the_others_have_in_common(tokenizer: Tokenizer) -> None:
    model, twin = dreamer(tokenizer.vocab_size), dreamer(tokenizer.vocab_size)
    unnamed = sorted(set(range(tokenizer.vocab_size)) - readable_tokens(tokenizer).keys())
    with torch.no_grad():
        twin.embedding.weight[unnamed] += 100 * torch.randn(model.embedding.weight.shape[1])
    vectors = torch.randn(4, 16)
    mine, others = (
        DreamCollector(one, tokenizer, 4, lambda segment: None)._modules["dreaming"].nearest(vectors, 4)
        for one in (model, twin)
    )
    assert mine == others


def test_candidates_found_in_bf16_are_decided_among_in_fp32() -> None:
    torch.manual_seed(0)
    content, vectors = torch.randn(3000, 48).bfloat16(), torch.randn(40, 48)
    found = Neighbourhood(content, {id: str(id) for id in range(3000)}).nearest(vectors, 5)
    directions = torch.nn.functional.normalize(content.float()).bfloat16()
    vectors = torch.nn.functional.normalize(vectors)
    best = (vectors @ directions.float().T).topk(5)
    for row, ids, scores in zip(found, best.indices.tolist(), best.values.tolist(), strict=True):
        assert [one.id for one in row] == ids
        assert [one.score for one in row] == pytest.approx(scores, abs=1e-5)
    rough = (vectors.bfloat16() @ directions.T).topk(5)
    assert not torch.equal(rough.indices, best.indices), "the product in bf16 alone finds others"


@pytest.mark.parametrize("vocabulary", [3, 511, 512, 600, 767, 771])
def test_groups_hide_none_of_the_nearest(vocabulary: int) -> None:
    torch.manual_seed(vocabulary)
    content, vectors = torch.randn(vocabulary, 16), torch.randn(50, 16)
    found = Neighbourhood(content, {id: str(id) for id in range(vocabulary)}).nearest(vectors, 1)
    cosine = torch.nn.functional.cosine_similarity(vectors[:, None], content, dim=2)
    assert [[one.id for one in row] for row in found] == cosine.argmax(dim=1, keepdim=True).tolist()
    last = Neighbourhood(content, {id: str(id) for id in range(vocabulary)}).nearest(content[-3:], 1)
    assert [one.id for [one] in last] == [vocabulary - 3, vocabulary - 2, vocabulary - 1]


def test_steps_may_be_told_in_fewer_words(tokenizer: Tokenizer) -> None:
    model = dreamer(tokenizer.vocab_size)
    short: list[DreamtSegment] = []
    collect = DreamCollector(model, tokenizer, 4, short.append, step_count=1)
    config = Sampler.Config(max_new_tokens=20, min_new_tokens=20, rows=8, seed=3)
    generate(model, tokenizer, PROMPTS, config, on_segments=collect)
    long = [segment for segment, _ in dreamt(model, tokenizer)]
    for one, other in zip(short, long, strict=True):
        assert one.graphs["dreaming"].roles == other.graphs["dreaming"].roles
        for brief, full in zip(one.graphs["dreaming"].dreams, other.graphs["dreaming"].dreams, strict=True):
            for step, all_of_it in zip(brief.steps, full.steps, strict=True):
                assert step.roles == {role: nearest[:1] for role, nearest in all_of_it.roles.items()}


def test_only_tokens_that_are_text_by_themselves_are_named(tokenizer: Tokenizer) -> None:
    tokens = readable_tokens(tokenizer)
    assert tokens.keys().isdisjoint({tokenizer.end_of_document_id, tokenizer.padding_id})
    assert all(text == tokenizer.decode([id]) and "\ufffd" not in text and text for id, text in tokens.items())
    pieces = [id for id in range(tokenizer.vocab_size) if "\ufffd" in tokenizer.decode([id])]
    assert pieces
    assert len(tokens) == tokenizer.vocab_size - len(pieces) - 2


@pytest.mark.parametrize(("modules", "native", "error"), [(1, False, 1e-5), (2, False, 1e-5), (1, True, 5e-3)])
def test_everything_is_told_as_it_stands_in_the_carry(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, modules: int, native: bool, error: float
) -> None:
    monkeypatch.setattr(collector, "native_bf16", lambda device: native)
    model = dreamer(tokenizer.vocab_size, modules)
    tokens = sorted(readable_tokens(tokenizer))
    segments = dreamt(model, tokenizer)
    assert len(segments) > len(PROMPTS)
    for segment, memories in segments:
        assert list(segment.graphs) == list(model.config.module_names)
        assert segment.text == tokenizer.decode(segment.passage.token_ids)
        for module in model.cognition:
            memory, graph = memories[module.name], segment.graphs[module.name]
            alone = model.embedding.weight[tokens][:, None]
            content = module.pooling(alone, torch.ones(len(tokens), 1, dtype=torch.bool))[:, 0].detach()
            directions = content - content.mean(dim=0)

            def expect(triplet: Triplet, vectors: torch.Tensor, directions: torch.Tensor = directions) -> None:
                for nearest, vector in zip(triplet.roles.values(), vectors, strict=True):
                    cosine = torch.cosine_similarity(vector[None], directions, dim=1)
                    best = cosine.sort(descending=True).values[:4]
                    assert [one.score for one in nearest] == pytest.approx(best.tolist(), abs=error)
                    for one in nearest:
                        assert float(cosine[tokens.index(one.id)]) == pytest.approx(one.score, abs=error)
                        assert one.token == tokenizer.decode([one.id])

            expect(graph.roles, memory["roles"])
            assert len(graph.dreams) == DREAMS
            for number, dream in enumerate(graph.dreams):
                assert dream.gate == pytest.approx(memory["gate"][number].tolist())
                assert len(dream.gate) == EXPERTS
                assert len(dream.steps) == STEPS
                for step, triplet in enumerate(dream.steps):
                    expect(triplet, memory["dreams"][number, step])
            told = torch.zeros_like(memory["edges"])
            for edge in graph.edges:
                places = (edge.source.dream * STEPS + edge.source.step, edge.target.dream * STEPS + edge.target.step)
                told[places] = torch.tensor(edge.shares)
            assert torch.equal(told, memory["edges"])
            assert len(graph.edges) == int((memory["edges"].sum(dim=2) > 0).sum()) > 0


def test_the_roles_of_one_word_over_and_over_lie_nearest_to_it(tokenizer: Tokenizer) -> None:
    model = dreamer(tokenizer.vocab_size)
    with torch.no_grad():
        for parameter in model.layers.parameters():
            parameter.zero_()
        model.cognition[0].pooling.place.zero_()
    length = 3 * SEGMENT
    [word, *_] = [
        id for id, text in readable_tokens(tokenizer).items() if tokenizer.encode(text * length) == [id] * length
    ]
    prompt = tokenizer.decode([word] * length)
    [_, (segment, _), *_] = dreamt(model, tokenizer, [prompt], new_tokens=1)
    assert segment.passage.token_ids == (word,) * SEGMENT
    assert [nearest[0].id for nearest in segment.graphs["dreaming"].roles.roles.values()] == [word] * 3


def test_dreams_do_not_depend_on_the_batch(tokenizer: Tokenizer) -> None:
    model = dreamer(tokenizer.vocab_size)

    def by_text(rows: int) -> list[DreamtSegment]:
        found = [segment for segment, _ in dreamt(model, tokenizer, rows=rows)]
        return sorted(found, key=lambda one: (one.passage.prompt, one.passage.begin))

    for one, other in zip(by_text(1), by_text(8), strict=True):
        assert (one.passage, one.text) == (other.passage, other.text)
        for graph, twin in zip(one.graphs.values(), other.graphs.values(), strict=True):
            assert _scores(graph.roles) == pytest.approx(_scores(twin.roles), abs=1e-4)
            for edge, same in zip(graph.edges, twin.edges, strict=True):
                assert (edge.source, edge.target) == (same.source, same.target)
                assert edge.shares == pytest.approx(same.shares, abs=1e-4)


def _scores(triplet: Triplet) -> list[float]:
    return [one.score for nearest in triplet.roles.values() for one in nearest]


@pytest.mark.parametrize("modules", [(), ("segment_summary",)], ids=str)
def test_a_model_that_does_not_dream_is_named_so(tokenizer: Tokenizer, modules: tuple[str, ...]) -> None:
    model = sharp_model(tokenizer.vocab_size)
    if modules:
        changes = {"modules": modules, "segment_length": 8}
        model = DreamLM.Config.model_validate({**model.config.model_dump(), **changes}).build(tokenizer.vocab_size)
    with pytest.raises(UserMistake) as raised:
        DreamCollector(model, tokenizer, 5, lambda segment: None)
    has = "its modules are segment_summary" if modules else "it has no modules"
    assert raised.value.what == f"this model does not dream: {has}"
    assert raised.value.valid == ('models whose preset has {"type": "dreaming"} in model.modules',)


def test_an_edge_has_the_type_of_its_largest_share() -> None:
    edge = Edge(Node(0, 0), Node(1, 0), (0.1, 0.2, 0.1, 0.1, 0.5))
    assert (edge.type, edge.strength) == ("type_4", 0.5)
    assert list(edge.by_type) == ["temporal", "spatial", "causal", "abstract", "type_4"]
    assert Edge(Node(0, 0), Node(1, 0), (0.4, 0.4, 0.1, 0.1)).type == "temporal"
    assert (edge.source.label, edge.target.label) == ("1.1", "2.1")


@pytest.mark.parametrize(
    ("token", "shown"),
    [(" sea", "sea"), ("\n", "\\n"), ("  ", "␣␣"), (" a b ", "a b"), ("\x0b", "\\x0b"), ("漢", "漢")],
)
def test_tokens_are_visible_on_one_line(token: str, shown: str) -> None:
    assert visible(token) == shown
    assert Triplet(*[(Neighbour(1, token, 0.5),)] * 3).label == " → ".join([shown] * 3)


def test_a_segment_is_called_by_what_it_is() -> None:
    def called(**changes: int) -> str:
        values = {"prompt": 1, "reading": 0, "number": 2, "begin": 16, "prompt_tokens": 0, **changes}
        return title(1, DreamtSegment(Passage(token_ids=(1,) * 8, **values), "", {}))

    assert called() == "text 2, segment 3, tokens 16 to 23 (written)"
    assert called(prompt_tokens=8) == "text 2, segment 3, tokens 16 to 23 (prompt)"
    assert called(prompt_tokens=3, reading=1) == (
        "text 2, segment 3 of reading 2, tokens 16 to 23 (prompt, then written)"
    )

"""The split follows the hash of the text; shards and the tokenizer's sample follow the split."""

from pathlib import Path

import pytest
from test_spool import spool_of

from dreamlm.core.types import Document
from dreamlm.data_sources.preparation import spool as spool_module
from dreamlm.data_sources.preparation.sample import training_sample
from dreamlm.data_sources.preparation.split import SplitSpool, held_out_of, plan_shards, spares_one


def split_of(folder: Path, count: int, fraction: float, at_least: int, length: int = 1) -> SplitSpool:
    documents = [Document(f"document {n} " * length, "x") for n in range(count)]
    spool = spool_of(folder, documents, lowest=max(1, at_least))
    return SplitSpool(spool, held_out_of([spool], fraction, at_least))


def held_out(source: SplitSpool) -> set[str]:
    _, entries = next(source.spool.entries())
    chosen = entries[source.chosen(entries, "validation")]
    return {text.decode() for _, texts in source.spool.texts(chosen, 100) for text in texts}


def test_about_the_fraction_is_held_out(tmp_path: Path) -> None:
    assert 60 < len(held_out(split_of(tmp_path, 2000, 0.05, 3))) < 140


@pytest.mark.parametrize(("documents", "expected"), [(1, 0), (2, 1), (10, 1), (50, 5), (400, 8)])
def test_a_small_source_still_holds_documents_out(tmp_path: Path, documents: int, expected: int) -> None:
    assert len(held_out(split_of(tmp_path, documents, 1e-9, 8))) == expected


@pytest.mark.parametrize("documents", [1, 2, 3])
@pytest.mark.parametrize("at_least", [0, 8])
def test_something_always_stays_to_train_on(tmp_path: Path, documents: int, at_least: int) -> None:
    almost_all = 1 - 1e-12
    source = split_of(tmp_path, documents, almost_all, at_least)
    assert len(held_out(source)) == documents - 1
    assert spares_one(source.spool, almost_all)
    assert not spares_one(source.spool, 1e-12)


def test_a_fraction_of_zero_holds_out_nothing(tmp_path: Path) -> None:
    assert held_out(split_of(tmp_path, 100, 0.0, 8)) == set()


def test_more_documents_move_none_from_validation_to_train(tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    (tmp_path / "many").mkdir()
    few, many = split_of(tmp_path / "few", 300, 0.1, 1), split_of(tmp_path / "many", 900, 0.1, 1)
    assert few.held_out.below == many.held_out.below
    assert held_out(few) < held_out(many)


@pytest.mark.parametrize(("first", "second"), [(200, 4000), (30, 60), (1, 2), (2, 2), (2000, 3)])
@pytest.mark.parametrize("fraction", [1e-9, 0.01, 0.5, 1 - 1e-12])
def test_a_document_of_two_sources_is_on_one_side(tmp_path: Path, first: int, second: int, fraction: float) -> None:
    spools = []
    for count in (first, second):
        folder = tmp_path / str(len(spools))
        folder.mkdir()
        spools.append(spool_of(folder, [Document(f"document {n}", "x") for n in range(count)], lowest=8))
    decided = held_out_of(spools, fraction, 8)
    both = [SplitSpool(spool, decided) for spool in spools]
    chosen = [held_out(source) for source in both]
    shared = {f"document {n}" for n in range(min(first, second))}
    assert chosen[0] & shared == chosen[1] & shared
    assert all(len(found) < count for found, count in zip(chosen, (first, second), strict=True))
    assert all(chosen) or min(first, second) <= 3


@pytest.mark.parametrize("shard_bytes", [1, 50, 333, 10**9])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_plans_cover_the_split_once_and_in_order(
    tmp_path: Path, shard_bytes: int, split: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "INDEX_BLOCK", 7)
    source = split_of(tmp_path, 100, 0.2, 1)
    plans = list(plan_shards(source, split, shard_bytes))
    found, sizes = [], []
    for plan in plans:
        texts = [
            text
            for _, entries in source.spool.entries(plan.first, plan.stop)
            for _, batch in source.spool.texts(entries[source.chosen(entries, split)], 100)
            for text in batch
        ]
        found += texts
        sizes.append(sum(map(len, texts)))
    expected = [
        text
        for _, entries in source.spool.entries()
        for _, batch in source.spool.texts(entries[source.chosen(entries, split)], 100)
        for text in batch
    ]
    assert found == expected
    assert [plan.number for plan in plans] == list(range(len(plans)))
    assert all(0 < size < shard_bytes + 2 * max(map(len, expected)) for size in sizes)


def test_the_tokenizer_never_sees_held_out_documents(tmp_path: Path) -> None:
    source = split_of(tmp_path, 500, 0.2, 1)
    sample = set(training_sample([source], 10**9))
    assert len(sample) + len(held_out(source)) == 500
    assert sample.isdisjoint(held_out(source))


def test_the_sample_is_bounded_and_spread_over_all_sources(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    small, large = split_of(tmp_path / "a", 1000, 0.1, 1), split_of(tmp_path / "b", 1000, 0.1, 1, length=3)
    sample = [len(text) for text in training_sample([small, large], 5000)]
    assert 3000 < sum(sample) < 5000 * 1.25 + 50
    assert 0.1 < sum(size for size in sample if size < 20) / sum(sample) < 0.5

"""Building a corpus in a folder that nobody sees yet: draw, split, tokenizer, shards, manifest."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from dreamlm.core.durable import sync_folder
from dreamlm.core.tokenizer import CONFIG_FILE, TOKENIZER_FILE, BytePair, Pretrained, Tokenizer
from dreamlm.core.types import ImageForm
from dreamlm.data_sources.durable import require_space, sync_file, write_durably
from dreamlm.data_sources.manifest import (
    MANIFEST_FILE,
    ImageRecord,
    Manifest,
    ShardRecord,
    SourceRecord,
    Split,
    TokenizerRecord,
)
from dreamlm.data_sources.preparation.cache_key import FAILED, VERSION
from dreamlm.data_sources.preparation.draw import Drawing, DrawnSource
from dreamlm.data_sources.preparation.encoders import choose_encoder
from dreamlm.data_sources.preparation.sample import training_sample
from dreamlm.data_sources.preparation.split import HASH_RANGE, SplitSpool, held_out_of, plan_shards, spares_one
from dreamlm.data_sources.preparation.tokenise import write_shards
from dreamlm.data_sources.preparation.unknown import unknown_text
from dreamlm.data_sources.progress import Progress
from dreamlm.data_sources.sources.source import Source

SPLITS: tuple[Split, ...] = ("train", "validation")
SHARD_BYTES_PER_TEXT_BYTE = 0.8  # two bytes for a token of three, and the index of short documents
SPARE_BYTES = 64 * 2**20  # for the set of digests, the manifest and everybody else on the disk
PARITY_BYTES = 1 << 19  # of the corpus, on which a faster encoder must prove itself


class Options(Protocol):
    """The part of `Preparation.Config` that decides how documents become shards."""

    @property
    def deduplicate(self) -> bool: ...
    @property
    def validation_fraction(self) -> float: ...
    @property
    def validation_documents(self) -> int: ...
    @property
    def shard_text_bytes(self) -> int: ...


class CorpusBuilder:
    """Builds one corpus inside a folder of its own, which the caller owns and removes."""

    def __init__(
        self,
        workshop: Path,
        options: Options,
        tokenizer_config: BytePair | Pretrained,
        workers: int,
        progress: Progress,
        image_form: ImageForm | None = None,
    ) -> None:
        """`image_form`: of the pictures that sources give, if any does."""
        self._spools, self._corpus = workshop / "spools", workshop / "corpus"
        self._options, self._tokenizer_config = options, tokenizer_config
        self._workers, self._progress, self._image_form = workers, progress, image_form
        self._drawing = Drawing(
            self._spools, options.deduplicate, max(1, options.validation_documents), progress, self._check_space
        )

    def expected_bytes(self) -> int:
        """About how much room the shards of what is spooled so far will take."""
        text_bytes = int(self._drawing.spooled_bytes * SHARD_BYTES_PER_TEXT_BYTE)
        return text_bytes + self._drawing.pixel_bytes + SPARE_BYTES

    def build(self, sources: Sequence[Source], limits: Sequence[int | None], key: Mapping[str, str]) -> Path:
        """The folder of the complete corpus, on the disk to the last byte. Raises: AllSourcesFailed, OutOfSpace."""
        self._check_space()
        self._spools.mkdir()
        drawn = self._drawing.run(sources, limits)
        spools = {source.name: source.spool for source in drawn if source.spool is not None}
        held_out = held_out_of(
            list(spools.values()), self._options.validation_fraction, self._options.validation_documents
        )
        split = {name: SplitSpool(spool, held_out) for name, spool in spools.items()}
        for name, source in split.items():
            if spares_one(source.spool, self._options.validation_fraction):
                self._progress.notice(f"source {name}: all documents would be held out; one stays to train on")
        self._corpus.mkdir()
        tokenizer = self._save_tokenizer(list(split.values()))
        self._check_space()
        records = self._save_shards(tokenizer, list(split.values()))
        if not any(record.split == "validation" for record in records):
            self._progress.notice("no document was held out: there are too few for a validation part")
        manifest = Manifest(
            key=_as_drawn(key, drawn),
            tokenizer=TokenizerRecord(
                digest=tokenizer.digest,
                vocab_size=tokenizer.vocab_size,
                end_of_document_id=tokenizer.end_of_document_id,
                padding_id=tokenizer.padding_id,
            ),
            images=self._image_record(records),
            sources=[_source_record(source, key, split.get(source.name), records) for source in drawn],
            shards=records,
        )
        write_durably(self._corpus / MANIFEST_FILE, manifest.to_json().encode())
        sync_folder(self._corpus)
        return self._corpus

    def _check_space(self) -> None:
        require_space(self._spools.parent.parent, self.expected_bytes())

    def _image_record(self, records: Sequence[ShardRecord]) -> ImageRecord | None:
        if self._image_form is None or not any(record.places for record in records):
            return None
        return ImageRecord(size=self._image_form.size, places=self._image_form.places)

    def _save_tokenizer(self, sources: Sequence[SplitSpool]) -> Tokenizer:
        self._progress.stage("tokenizer", None)
        if isinstance(self._tokenizer_config, BytePair):
            sample = training_sample(sources, self._tokenizer_config.sample_bytes)
            tokenizer = self._tokenizer_config.build(self._counted(sample))
        else:
            tokenizer = self._tokenizer_config.build([])
        tokenizer.save(self._corpus)
        for name in (TOKENIZER_FILE, CONFIG_FILE):
            sync_file(self._corpus / name)
        return tokenizer

    def _counted(self, texts: Iterator[str]) -> Iterator[str]:
        for text in texts:
            self._progress.advance(len(text.encode()))
            yield text

    def _save_shards(self, tokenizer: Tokenizer, sources: Sequence[SplitSpool]) -> list[ShardRecord]:
        sample = (text.encode() for text in training_sample(sources, PARITY_BYTES))
        encoder, why = choose_encoder(tokenizer, sample)
        self._progress.notice(f"tokenising with {encoder}: {why}")
        self._progress.stage("tokenise", sum(source.spool.text_bytes for source in sources))
        plans = [
            plan
            for split in SPLITS
            for source in sources
            for plan in plan_shards(source, split, self._options.shard_text_bytes)
        ]
        for split in sorted({plan.split for plan in plans}):
            (self._corpus / split).mkdir()
        places = self._image_form.places if self._image_form else 0
        records = write_shards(plans, self._corpus, encoder, self._workers, self._progress, places)
        if lost := unknown_text(records):
            self._progress.notice(lost)
        for split in sorted({plan.split for plan in plans}):
            sync_folder(self._corpus / split)
        return records


def _as_drawn(key: Mapping[str, str], drawn: Sequence[DrawnSource]) -> dict[str, str]:
    """The key with what is known since the sources were read: which of them failed, and what versions they have."""
    failed = {f"source {source.name}": FAILED for source in drawn if source.worth_another_try}
    versions = {f"{VERSION}{source.name}": source.version for source in drawn if source.version}
    return {**key, **failed, **versions}


def _source_record(
    source: DrawnSource, key: Mapping[str, str], split: SplitSpool | None, records: Sequence[ShardRecord]
) -> SourceRecord:
    own = [record for record in records if record.source == source.name]
    report = source.report
    return SourceRecord(
        name=source.name,
        fingerprint=key[f"source {source.name}"],
        failure=source.failure,
        inputs=report.inputs,
        documents=sum(record.documents for record in own),
        text_bytes=sum(record.text_bytes for record in own),
        tokens=sum(record.text_tokens for record in own),
        pictures=sum(record.documents for record in own if record.places),
        drops=dict(sorted(report.drops.items())),
        examples={name: list(report.examples[name]) for name in sorted(report.examples)},
        validation_threshold=split.held_out.below / HASH_RANGE if split is not None else 0.0,
    )

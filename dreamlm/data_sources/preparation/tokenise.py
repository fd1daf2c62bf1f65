"""From spooled text to shards, on several processes; which process makes a shard changes nothing in it."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dreamlm.core.tokenizer import Tokenizer
from dreamlm.data_sources.manifest import ShardRecord
from dreamlm.data_sources.preparation.encoders import ENCODERS, EncoderName, build_encoder
from dreamlm.data_sources.preparation.split import ShardPlan
from dreamlm.data_sources.preparation.unknown import unknown_id
from dreamlm.data_sources.progress import Progress
from dreamlm.data_sources.shards import Shard, token_dtype, write_shard


class ShardWriter:
    """Makes shards of a corpus folder that already holds its tokenizer. Memory: about three shards."""

    def __init__(self, folder: Path, encoder: EncoderName, places: int) -> None:
        """`places`: tokens that stand for a picture, where a source has some."""
        self._folder, self._places = folder, places
        self._tokenizer = Tokenizer.load(folder)
        self._encoder = build_encoder(encoder, self._tokenizer)
        self._unknown_id = unknown_id(self._tokenizer)

    def write(self, plan: ShardPlan) -> ShardRecord:
        """Encode the documents of the plan and write their shard."""
        pieces: list[npt.NDArray[Any]] = []
        lengths, sizes, names, pictures = [], [], [], []
        unknown = 0
        places = self._places if plan.source.spool.picture_shape else 0
        for _, block in plan.source.spool.entries(plan.first, plan.stop):
            chosen = block[plan.source.chosen(block, plan.split)]
            names += plan.source.spool.names(chosen)
            sizes.append(chosen["bytes"])
            pictures.append(chosen["picture"])
            for _, texts in plan.source.spool.texts(chosen, self._encoder.batch_bytes):
                ids, counts = self._encoder.encode(texts)
                if self._unknown_id is not None:
                    unknown += int(np.count_nonzero(ids == self._unknown_id))
                pieces.append(self._with_openings(ids, counts, places))
                lengths.append(counts + 1 + places)
        inputs = {name: index for index, name in enumerate(dict.fromkeys(names))}
        tokens: npt.NDArray[Any] = np.concatenate(pieces)
        starts = np.cumsum(np.concatenate(lengths)) - np.concatenate(lengths)
        shard = Shard(
            tokens=tokens,
            document_starts=starts,
            document_bytes=np.concatenate(sizes),
            sources=np.array([inputs[name] for name in names], dtype=np.uint32),
            inputs=tuple(inputs),
            tokenizer_digest=self._tokenizer.digest,
            **self._shown(plan, np.concatenate(pictures), places),
        )
        size, sha256 = write_shard(self._folder / plan.path, shard)
        return ShardRecord(
            path=plan.path,
            source=plan.source.spool.source,
            split=plan.split,
            documents=len(starts),
            tokens=len(shard.tokens),
            text_bytes=int(shard.document_bytes.sum()),
            file_bytes=size,
            sha256=sha256,
            places=places * len(starts),
            unknown_tokens=unknown,
        )

    def _with_openings(
        self, ids: npt.NDArray[np.uint32], counts: npt.NDArray[np.int64], places: int
    ) -> npt.NDArray[np.uint16] | npt.NDArray[np.uint32]:
        """The documents, each behind its end-of-document token and the places of its picture."""
        first, end = self._tokenizer.vocab_size, self._tokenizer.end_of_document_id
        dtype = token_dtype(first + places)
        opening = np.array([end, *range(first, first + places)], dtype=dtype)
        begins = np.cumsum(counts) - counts
        return np.insert(ids.astype(dtype), begins.repeat(len(opening)), np.tile(opening, len(begins)))

    def _shown(self, plan: ShardPlan, pictures: npt.NDArray[np.int64], places: int) -> dict[str, Any]:
        """What a shard has besides when its documents show pictures, given the number of each in the spool."""
        if not places:
            return {}
        distinct, shown = np.unique(pictures, return_inverse=True)
        return {"pixels": plan.source.spool.pixels()[distinct], "pictures": shown.astype(np.uint32), "places": places}


def write_shards(
    plans: Sequence[ShardPlan], folder: Path, encoder: EncoderName, workers: int, progress: Progress, places: int = 0
) -> list[ShardRecord]:
    """All shards, in the order of the plans; on up to `workers` processes, as many as the text is worth.

    `places`: tokens that stand for a picture.
    """
    text_bytes = sum({plan.source.spool.path: plan.source.spool.text_bytes for plan in plans}.values())
    count = min(workers, len(plans), text_bytes // ENCODERS[encoder].process_bytes)
    if count < 2:
        writer = ShardWriter(folder, encoder, places)
        return [_reported(writer.write(plan), progress) for plan in plans]
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, mp_context=spawn, initializer=_start_worker, initargs=(folder, encoder, places))
    try:
        running = {pool.submit(_write_in_worker, plan): number for number, plan in enumerate(plans)}
        records = {running[done]: _reported(done.result(), progress) for done in as_completed(running)}
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return [records[number] for number in range(len(plans))]


def _reported(record: ShardRecord, progress: Progress) -> ShardRecord:
    progress.advance(record.text_bytes, record.text_tokens)
    return record


_writers: list[ShardWriter] = []  # of this worker process: one, made when it starts


def _start_worker(folder: Path, encoder: EncoderName, places: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted as well, and stops its workers
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _writers.append(ShardWriter(folder, encoder, places))


def _write_in_worker(plan: ShardPlan) -> ShardRecord:
    return _writers[0].write(plan)


def _end_with_parent() -> None:
    """A killed parent cannot stop its workers; each watches for its end, and ends too."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)

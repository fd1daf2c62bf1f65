"""The corpus of a preset: prepared when it is missing or no longer fits its inputs, opened otherwise."""

import os
from pathlib import Path

from dreamlm.data_sources.corpus import Corpus
from dreamlm.data_sources.preparation.cache_key import Difference
from dreamlm.data_sources.prepare import Preparation
from dreamlm.data_sources.progress import Progress
from dreamlm.presets.schema import Preset
from dreamlm.wiring.places import corpus_folder, home, stream_byte_limit

STOPPED = (
    "stopped: no part of the new corpus is left, and an older one is untouched; "
    "the same command starts it again, with what it has read of PDFs and hub streams"
)


def prepare_corpus(
    preset: Preset,
    progress: Progress,
    folder: Path | None = None,
    workers: int | None = None,
    trained_on: str = "",
) -> Corpus:
    """The corpus of the preset, in `folder` or in the cache; instant when it is there and fits.

    A run that goes on keeps the corpus whose fingerprint is `trained_on`, whatever became of its inputs.
    Ctrl-C and SIGTERM go on their way when the progress was told what they leave behind.
    Raises: AllSourcesFailed, DataError, UserMistake, ResumeMismatch among it, OutOfSpace.
    """
    request = _request(preset, progress, folder, workers, trained_on)
    try:
        return request.run(trained_on)
    except (KeyboardInterrupt, SystemExit):
        progress.notice(STOPPED)
        raise


def explain_corpus(preset: Preset, progress: Progress, folder: Path | None = None) -> list[Difference]:
    """Why the corpus that is there cannot be used for the preset; empty when it can.  Raises: as `prepare_corpus`."""
    return _request(preset, progress, folder, workers=None).differences()


def _request(
    preset: Preset, progress: Progress, folder: Path | None, workers: int | None, trained_on: str = ""
) -> Preparation:
    return Preparation(
        preset.data,
        preset.tokenizer,
        folder or _free_folder(preset, trained_on),
        workers=workers or os.cpu_count() or 1,
        progress=progress,
        stream_byte_limit=stream_byte_limit(preset),
        cache_folder=home() / "cache",
        base_folder=Path.cwd(),
        image_form=preset.model.image_form,
        keeps_older=folder is None,
    )


def _free_folder(preset: Preset, trained_on: str) -> Path:
    """Where the preset's corpus is or will be; that of a run, beside another one that has taken its place."""
    folder = corpus_folder(preset, trained_on)
    there = Corpus.find(folder) if trained_on else None
    taken = there is not None and there.fingerprint != trained_on
    return folder.with_name(f"{folder.name}-{trained_on[:12]}") if taken else folder

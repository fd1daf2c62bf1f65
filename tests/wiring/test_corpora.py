"""The corpus of a preset: what an interruption leaves behind, and where the corpus lies."""

from pathlib import Path

import pytest
from workplace import Workplace

from dreamlm.data_sources.progress import Silence
from dreamlm.wiring.corpora import STOPPED, prepare_corpus


class Interrupting(Silence):
    """Raises an error when a stage begins."""

    def __init__(self, stage: str, error: BaseException) -> None:
        self.wanted, self.error = stage, error
        self.notices: list[str] = []

    def stage(self, name: str, total_bytes: int | None) -> None:
        if name == self.wanted:
            raise self.error

    def notice(self, message: str) -> None:
        self.notices.append(message)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("stage", ["look at sources", "read sources", "tokenizer", "tokenise"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143)], ids=["SIGINT", "SIGTERM"])
def test_an_interruption_says_what_it_leaves_and_leaves_just_that(
    place: Workplace, tmp_path: Path, stage: str, error: BaseException
) -> None:
    folder = tmp_path / "corpora" / "mine"
    before = content(prepare_corpus(place.preset(), Silence(), folder).folder)
    progress, changed = Interrupting(stage, error), place.preset("data.min_text_length=60")
    with pytest.raises(type(error)):
        prepare_corpus(changed, progress, folder)
    assert progress.notices[-1] == STOPPED
    assert content(folder) == before
    assert {path.name for path in folder.parent.iterdir()} <= {"mine", ".mine.lock"}
    assert prepare_corpus(changed, Silence(), folder).manifest.key["option min_text_length"] == "60"

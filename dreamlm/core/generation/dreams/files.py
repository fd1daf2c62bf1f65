"""The file that dreams are written to: its suffix says in which form."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dreamlm.core.errors import DreamLMError, UserMistake
from dreamlm.core.generation.dreams.document import to_json
from dreamlm.core.generation.dreams.graphml import graphml
from dreamlm.core.generation.dreams.page import html
from dreamlm.core.generation.dreams.picture import draw_record
from dreamlm.core.generation.dreams.values import DreamRecord

FORMS: Mapping[str, Callable[[DreamRecord], bytes]] = {
    ".graphml": graphml,
    ".html": lambda record: html(record).encode(),
    ".json": lambda record: (json.dumps(to_json(record), ensure_ascii=False) + "\n").encode(),
    ".png": draw_record,
}


@dataclass(frozen=True)
class DreamFile:
    """A file of one of the forms, which appears whole or stays as it is."""

    path: Path
    form: Callable[[DreamRecord], bytes]

    @classmethod
    def at(cls, path: Path) -> "DreamFile":
        """Raises: UserMistake when the suffix names no form, or nothing can be written there."""
        form = FORMS.get(path.suffix.lower())
        if form is None:
            what = f"dreams cannot be written as {path.suffix}" if path.suffix else "this name does not say which form"
            raise UserMistake(what, where=str(path), valid=[f"{path.stem or 'dreams'}{suffix}" for suffix in FORMS])
        if path.is_dir():
            raise UserMistake("this is a folder", where=str(path), hint="name a file in it, such as dreams.json")
        one = cls(path, form)
        try:
            one._incoming.write_bytes(b"")
            one._incoming.unlink()
        except OSError as error:
            what = f"dreams cannot be written here: {error.strerror or error}"
            raise UserMistake(what, where=str(path), hint="name a file in a folder that you may write to") from error
        return one

    def write(self, record: DreamRecord) -> None:
        """Replace the file.  Raises: DreamLMError when the system refuses; the file is then as it was."""
        content = self.form(record)
        try:
            with self._incoming.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            self._incoming.replace(self.path)
        except OSError as error:
            self._incoming.unlink(missing_ok=True)
            what = f"the dreams could not be written: {error.strerror or error}"
            raise DreamLMError(what, where=str(self.path), hint="free some space, or name another file") from error

    @property
    def _incoming(self) -> Path:
        return self.path.with_name(f"{self.path.name}.incoming")

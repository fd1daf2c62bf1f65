"""The tokenizer of a corpus and of the models trained on it: learned from the corpus, or taken from another model.

Ordinary text never turns into a special token: the characters `<|endoftext|>` in a document are encoded as characters.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import tokenizers
from pydantic import Field
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors, trainers

from dreamlm.core.byte_fallback import REPLACEMENT, falls_back, mended
from dreamlm.core.config import ConfigModel, choice
from dreamlm.core.errors import DataError, RangeError, UserMistake
from dreamlm.core.hub import from_hub

END_OF_DOCUMENT = "<|endoftext|>"
PADDING = "<|padding|>"
SMALLEST_VOCABULARY = 256 + 2  # every byte, end of document, padding

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"


class BytePair(ConfigModel):
    """A byte-level BPE trained on the corpus itself; encodes any text without an unknown token."""

    type: Literal["bpe"] = "bpe"
    vocab_size: int = Field(default=8192, ge=SMALLEST_VOCABULARY, le=1_000_000)
    """Number of tokens, the two special ones included; fewer when the corpus is too small to need them."""
    sample_bytes: int = Field(default=8 * 2**20, ge=1)
    """How much training text (UTF-8 bytes, spread evenly over the corpus) the merges are learned from."""

    def build(self, texts: Iterable[str]) -> "Tokenizer":
        """Learn the merges from all of the texts; taking a sample of `sample_bytes` is the caller's part."""
        return Tokenizer.train(self, texts)


class Pretrained(ConfigModel):
    """The tokenizer of an existing model."""

    type: Literal["pretrained"] = "pretrained"
    path: str = Field(min_length=1)
    """A `transformers` model id such as `gpt2`, or a folder that holds a tokenizer.json."""
    revision: str | None = None
    """Branch, tag or commit of the model id."""

    def build(self, texts: Iterable[str]) -> "Tokenizer":
        """Read the tokenizer; the texts are not looked at. Raises: UserMistake when there is none."""
        return Tokenizer.pretrained(self)


class Tokenizer:
    """Text to token ids and back. Immutable; equal digests give equal ids."""

    Config: TypeAlias = Annotated[
        BytePair | Pretrained,
        Field(discriminator="type"),
        choice("bpe"),
    ]

    def __init__(self, backend: tokenizers.Tokenizer, end_of_document: str, padding: str) -> None:
        """Take over `backend`, whose vocabulary must hold both special tokens.

        Raises: RangeError when the two are one token or not in the vocabulary.
        """
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = True
        if end_of_document == padding:
            raise RangeError(f"end of document and padding must be two tokens, both are {padding!r}")
        self.backend = backend
        self.end_of_document, self.padding = end_of_document, padding
        self.end_of_document_id = _id_of(backend, end_of_document)
        self.padding_id = _id_of(backend, padding)
        backend.post_processor = _opening(end_of_document, self.end_of_document_id)
        added = backend.get_added_tokens_decoder()
        self.special_ids = frozenset(number for number, token in added.items() if token.special)
        """Ids of all special tokens, not only of those two: they have no text."""
        self._falls_back = falls_back(backend)
        vocabulary: dict[str, int] = backend.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocabulary.values()) + 1
        self.digest = _digest(backend, end_of_document, padding)

    @classmethod
    def train(cls, config: BytePair, texts: Iterable[str]) -> "Tokenizer":
        """Learn the merges from the texts, all of them; the same texts give the same tokenizer on any machine.

        Cost: time linear in the text, memory in the number of distinct words.
        """
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=config.vocab_size,
            special_tokens=[END_OF_DOCUMENT, PADDING],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        return cls(backend, END_OF_DOCUMENT, PADDING)

    @classmethod
    def pretrained(cls, config: Pretrained) -> "Tokenizer":
        """The tokenizer of a `transformers` model; a padding token is added when it has none of its own.

        Raises: UserMistake when it cannot be read, or is no fast tokenizer.
        """
        from transformers import AutoTokenizer  # over a second of import time

        def load(local_files_only: bool) -> Any:
            return AutoTokenizer.from_pretrained(
                config.path, revision=config.revision, trust_remote_code=False, local_files_only=local_files_only
            )

        try:
            loaded = load(True) if Path(config.path).is_dir() else from_hub(config.path, load)
        except (OSError, ValueError, ImportError) as error:
            folder = Path(config.path)
            lacks_file = folder.is_dir() and not (folder / TOKENIZER_FILE).exists()
            reason = f"there is no {TOKENIZER_FILE}" if lacks_file else str(error).strip().splitlines()[0]
            hint = "give a transformers model id, or a folder that holds a tokenizer.json; `bpe` needs no download"
            raise UserMistake(f"no tokenizer could be read: {reason}", where=config.path, hint=hint) from error
        if not loaded.is_fast:
            hint = "choose a model that has a tokenizer.json, or the type `bpe`"
            raise UserMistake("this tokenizer has no tokenizer.json form", where=config.path, hint=hint)
        backend = tokenizers.Tokenizer.from_str(loaded.backend_tokenizer.to_str())
        end = loaded.eos_token or loaded.sep_token or END_OF_DOCUMENT
        padding = loaded.pad_token if loaded.pad_token not in (None, end, loaded.unk_token) else PADDING
        missing = [token for token in (end, padding) if backend.token_to_id(token) is None]
        backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in missing])
        return cls(backend, end, padding)

    def encode(self, text: str) -> list[int]:
        """Token ids of the text, without any special token.

        Raises: DataError when the text holds a lone surrogate, which no UTF-8 text has.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text; on several threads. Raises: DataError as `encode` does."""
        try:
            encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        except (TypeError, UnicodeEncodeError) as error:
            raise DataError(
                "text to encode is no valid Unicode: it holds a lone surrogate",
                hint="read the text as UTF-8 with errors='replace'",
            ) from error
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids; special tokens have none.

        Bytes that are no UTF-8 become U+FFFD, and so does a character that the ids end inside of: nothing before it is
        lost. Departs: `tokenizers` gives up a whole run of byte tokens (`byte_fallback`) then.
        """
        return self._whole(self.backend.decode(ids, skip_special_tokens=True), ids)

    def decode_batch(self, batches: Sequence[Sequence[int]]) -> list[str]:
        """The text of each; on several threads."""
        texts = self.backend.decode_batch(batches, skip_special_tokens=True)
        return [self._whole(text, ids) for text, ids in zip(texts, batches, strict=True)]

    def _whole(self, text: str, ids: Sequence[int]) -> str:
        """What the ids say, of which the library made `text`."""
        if not self._falls_back or REPLACEMENT not in text:
            return text
        tokens = [self.backend.id_to_token(number) for number in ids if number not in self.special_ids]
        whole: str = self.backend.decoder.decode([*mended(token for token in tokens if token is not None)])
        return whole

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, which `transformers.AutoTokenizer` reads as well.

        There, unlike in `encode`, a text opens with the end-of-document token, as every document does in training.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files().items():
            (folder / name).write_bytes(content)

    def files(self) -> dict[str, bytes]:
        """What `save` writes, by file name."""
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self.end_of_document,
            "eos_token": self.end_of_document,
            "pad_token": self.padding,
            "padding_side": "left",
            "model_input_names": ["input_ids", "attention_mask"],
            "split_special_tokens": True,
            "clean_up_tokenization_spaces": False,
        }
        return {
            TOKENIZER_FILE: _canonical(self.backend).encode(),
            CONFIG_FILE: (json.dumps(config, indent=2) + "\n").encode(),
        }

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Read what `save` wrote. Raises: DataError naming the file that is missing or damaged."""
        config = _read(folder / CONFIG_FILE)
        try:
            names = json.loads(config)
            end, padding = str(names["eos_token"]), str(names["pad_token"])
        except (ValueError, KeyError, TypeError) as error:
            what = "tokenizer configuration does not name eos_token and pad_token"
            raise DataError(what, where=str(folder / CONFIG_FILE)) from error
        definition = _read(folder / TOKENIZER_FILE)
        try:
            backend = tokenizers.Tokenizer.from_str(definition)
        except Exception as error:  # the library raises plain Exception for any malformed file
            raise DataError(f"not a tokenizer: {error}", where=str(folder / TOKENIZER_FILE)) from error
        return cls(backend, end, padding)


class TextStream:
    """Turns a growing sequence of ids into text piece by piece, each piece complete UTF-8.

    The pieces of all `push` calls and of `finish` together equal `tokenizer.decode` of all ids, or what they add to it
    where they come after others: a decoder that takes the space from a text's first word leaves that of later ones.
    """

    _KEPT = 16  # ids of context: some decoders treat the first token of a text differently

    def __init__(self, tokenizer: Tokenizer, after: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._ids = [number for number in after if number not in tokenizer.special_ids][-self._KEPT :]
        self._emitted = len(tokenizer.decode(self._ids))

    def push(self, ids: Iterable[int]) -> str:
        """The text that became certain with these ids; empty while a character is incomplete. Cost: constant an id."""
        self._ids.extend(number for number in ids if number not in self._tokenizer.special_ids)
        piece = self._advance(_certain(self._tokenizer.decode(self._ids)))
        if len(self._ids) > 4 * self._KEPT:
            # No character has as many bytes, so what is not certain yet stays whole.
            self._ids = self._ids[-self._KEPT :]
            self._emitted = len(_certain(self._tokenizer.decode(self._ids)))
        return piece

    def finish(self) -> str:
        """What was held back: a character that never became complete, as U+FFFD."""
        return self._advance(self._tokenizer.decode(self._ids))

    def _advance(self, text: str) -> str:
        piece = text[self._emitted :]
        self._emitted += len(piece)
        return piece


def _certain(text: str) -> str:
    """The text without a last character that the next byte may complete."""
    return text.removesuffix(REPLACEMENT)


def _id_of(backend: tokenizers.Tokenizer, token: str) -> int:
    found: int | None = backend.token_to_id(token)
    if found is None:
        raise RangeError(f"special token {token!r} is not in the vocabulary")
    return found


def _opening(token: str, token_id: int) -> processors.TemplateProcessing:
    """Puts the token before a text that is encoded with special tokens."""
    # By an alias, because a template gives a meaning to some of the characters that a token may have.
    alias = {"id": "OPENING", "ids": [token_id], "tokens": [token]}
    return processors.TemplateProcessing(single="OPENING $A", pair="OPENING $A $B:1", special_tokens=[alias])


def _canonical(backend: tokenizers.Tokenizer) -> str:
    return json.dumps(json.loads(backend.to_str()), sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _digest(backend: tokenizers.Tokenizer, end_of_document: str, padding: str) -> str:
    parts = json.dumps([_canonical(backend), end_of_document, padding])
    return hashlib.sha256(parts.encode()).hexdigest()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"tokenizer file cannot be read: {error}", where=str(path)) from error

"""Prompts from arguments, from a file, or from stdin: one a line, or JSON lines with a `prompt`."""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TextIO

from dreamlm.core.errors import UserMistake

BYTE_ORDER_MARK = "\ufeff"


def read_prompts(lines: Iterable[str], name: str = "stdin") -> Iterator[str]:
    """Every line is a prompt; when the first that is not empty begins with `{`, every line is a JSON object.

    A byte order mark before the first line is no part of it.
    name: where the lines come from, for errors.
    Raises: UserMistake naming the line that is not UTF-8, or no object with a text as `prompt`.
    """
    as_json = None
    for number, line in enumerate(lines, start=1):
        text = (line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line).rstrip("\r\n")
        if not text.strip():
            continue
        if not _is_unicode(text):
            hint = "convert it, for example with: iconv -f LATIN1 -t UTF-8"
            raise UserMistake("this prompt is not UTF-8 text", where=f"{name}, line {number}", hint=hint)
        if as_json is None:
            as_json = text.lstrip().startswith("{")
        yield _prompt_of(text, f"{name}, line {number}") if as_json else text


def prompts_in(path: Path) -> list[str]:
    """The prompts of a file, as on stdin.  Raises: UserMistake when it cannot be read, or has none."""
    try:
        with path.open(encoding="utf-8", errors="surrogateescape") as file:
            prompts = list(read_prompts(file, str(path)))
    except OSError as error:
        raise UserMistake(f"cannot read the prompts: {error.strerror}", where=str(path)) from error
    if not prompts:
        raise UserMistake("there is no prompt in this file", where=str(path), hint="write one a line")
    return prompts


def chosen_prompts(arguments: Sequence[str], stdin: TextIO) -> Iterator[str]:
    """The arguments, or what comes on stdin when there are none.

    Raises: UserMistake when there is neither, or an argument is not UTF-8.
    """
    if arguments:
        return _as_text(arguments)
    if stdin.isatty():
        hint = 'dreamlm generate --run DIR "Once upon a time", or pipe one prompt a line; "" begins a new document'
        raise UserMistake("there is no prompt", hint=hint)
    return read_prompts(stdin)


def prompts_for(images: Sequence[Path], arguments: Sequence[str]) -> Iterator[str]:
    """What stands behind each picture: nothing, one prompt for all, or one for each.

    Raises: UserMistake when there are neither as many prompts as pictures, nor one, nor none, or one is not UTF-8.
    """
    if len(arguments) in (0, 1):
        return _as_text([*(arguments or [""])] * len(images))
    if len(arguments) != len(images):
        pictures = "1 picture" if len(images) == 1 else f"{len(images)} pictures"
        what = f"{len(arguments)} prompts cannot be shared among {pictures}"
        raise UserMistake(what, where="--image", hint="give one prompt for each --image, or one for all, or none")
    return _as_text(arguments)


def batches(prompts: Iterable[str], size: int) -> Iterator[list[str]]:
    """The prompts in lists of at most `size`, each as soon as it is full."""
    source = iter(prompts)
    while batch := list(islice(source, size)):
        yield batch


def _as_text(arguments: Sequence[str]) -> Iterator[str]:
    for number, argument in enumerate(arguments, start=1):
        if not _is_unicode(argument):
            hint = "a terminal that writes UTF-8 gives such text; or write the prompt into a UTF-8 file, and pipe it"
            raise UserMistake("this prompt is not UTF-8 text", where=f"argument {number}", hint=hint)
    return iter(arguments)


def _is_unicode(text: str) -> bool:
    """False when bytes that are no UTF-8 were carried along as lone surrogates, or JSON spelled such a one."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _prompt_of(text: str, where: str) -> str:
    hint = 'a line is an object such as {"prompt": "Once upon a time"}'
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserMistake(f"not valid JSON: {error.msg}", where=where, hint=hint) from error
    except (ValueError, RecursionError) as error:
        what = "this JSON holds a number of too many digits, or is nested too deeply"
        raise UserMistake(what, where=where, hint=hint) from error
    if not isinstance(value, dict) or "prompt" not in value:
        keys = list(value) if isinstance(value, dict) else []
        found = f"its keys are {', '.join(keys)}" if keys else "it is no object with keys"
        raise UserMistake(f"this line has no `prompt`: {found}", where=where, hint=hint)
    if not isinstance(value["prompt"], str):
        raise UserMistake("`prompt` must be text", where=where, hint=hint)
    if not _is_unicode(value["prompt"]):
        hint = r"a character beyond \uffff is written as two such escapes, as in \ud83d\ude42, or as itself"
        raise UserMistake("`prompt` is no valid Unicode: it holds half a surrogate pair", where=where, hint=hint)
    return value["prompt"]

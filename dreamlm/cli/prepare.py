"""`dreamlm prepare`: documents to a corpus on disk."""

from typing import Annotated, Any

import typer

from dreamlm.cli.console import Console
from dreamlm.cli.options import CorpusOption, JsonOption, PresetOption, WorkersOption, set_option


def prepare(
    preset: PresetOption = None,
    sets: Annotated[list[str] | None, set_option("data.min_text_length=100")] = None,
    corpus: CorpusOption = None,
    workers: WorkersOption = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say why the corpus there is cannot be used, and build nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Turn documents into a corpus; instant when nothing changed.

    Reads the sources of a preset, cleans, deduplicates, holds some documents out, and tokenises them.
    """
    from dreamlm.cli.menu import choose_preset
    from dreamlm.cli.progress import PreparationProgress
    from dreamlm.presets.resolve import resolve

    console = Console(as_json)
    chosen = resolve(preset or choose_preset(console), sets or ())
    from dreamlm.wiring.corpora import explain_corpus, prepare_corpus
    from dreamlm.wiring.origin import completed

    chosen = completed(chosen)
    with console.live() as line:
        progress = PreparationProgress(console, line)
        if explain:
            differences = explain_corpus(chosen, progress, corpus)
        else:
            prepared = prepare_corpus(chosen, progress, corpus, workers)
    if explain:
        _tell_differences(console, differences)
    elif as_json:
        console.document({"folder": prepared.folder, **prepared.manifest.summary()})
    else:
        _tell_summary(console, str(prepared.folder), prepared.manifest.summary())


def _tell_differences(console: Console, differences: Any) -> None:
    if console.as_json:
        console.document(differences)
        return
    for difference in differences:
        console.result(str(difference))
    if not differences:
        console.result("the corpus fits this preset and will be used as it is")


def _tell_summary(console: Console, folder: str, summary: dict[str, Any]) -> None:
    from dreamlm.cli.live_line import count

    console.result(f"corpus {folder}, {count(summary['file_bytes'])}B in {summary['shards']} shards")
    counted = ["documents", "tokens"]
    if (form := summary["images"]) is not None:
        counted.insert(1, "pictures")
        console.result(f"pictures of {form['size']} x {form['size']} pixels, {form['places']} places each")
    rows = [
        (split, *(figures[name] for name in counted), f"{count(figures['text_bytes'])}B")
        for split, figures in summary["splits"].items()
    ]
    console.table(("part", *counted, "text"), rows)
    console.result("")
    sources = summary["sources"]
    kept = [(one["name"], one["inputs"], *(one[name] for name in counted), one["failure"] or "") for one in sources]
    console.table(("source", "inputs", *counted, "failure"), kept)
    drops = [(one["name"], reason, times) for one in sources for reason, times in one["drops"].items()]
    if drops:
        console.result("")
        console.table(("source", "left out because", "times"), drops)

"""`dreamlm eval`: how well a model predicts held-out text, and what else was asked about it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dreamlm.cli.console import Console
from dreamlm.cli.options import (
    CheckpointOption,
    CorpusOption,
    DeviceOption,
    ExtendOption,
    JsonOption,
    RescaleOption,
    RunOption,
    SeedOption,
    assignments,
    layer_choice,
    set_option,
)

if TYPE_CHECKING:
    from dreamlm.core.evaluation.bootstrap import Interval
    from dreamlm.core.evaluation.report import PerplexityReport
    from dreamlm.core.evaluation.section import EvaluationReport, Section
    from dreamlm.wiring.evaluation import SectionRequest


ABSENT = "-"
"""In a table, what could not be measured."""


def evaluate(
    run: RunOption = None,
    checkpoint: CheckpointOption = None,
    text: Annotated[Path | None, typer.Option("--text", metavar="FILE", help="Measure on this UTF-8 file.")] = None,
    corpus: CorpusOption = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", min=1, help="Measure on a sample of the held-out documents.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Windows and texts at once; never changes the result.")
    ] = None,
    diversity: Annotated[
        int | None,
        typer.Option(
            "--diversity", min=2, max=1_000_000, metavar="N", help="Write N texts, and measure how they differ."
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", metavar="FILE", help="What they continue; default how held-out documents begin."),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option("--reference", metavar="DIR", help="A run or snapshot that judges how likely they are."),
    ] = None,
    thoughts: Annotated[
        bool, typer.Option("--thoughts", help="Measure a thought_stack: its thoughts, and what other stacks cost.")
    ] = False,
    dreams: Annotated[
        bool, typer.Option("--dreams", help="Measure a dreaming module: who dreams what, and what other dreams cost.")
    ] = False,
    retrieval: Annotated[
        bool, typer.Option("--retrieval", help="Measure how held-out pictures find their captions, and the reverse.")
    ] = False,
    extend_max_seq_len: ExtendOption = None,
    rescale_layers: RescaleOption = None,
    seed: SeedOption = None,
    sets: Annotated[list[str] | None, set_option("eval.by=document")] = None,
    device: DeviceOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write report.json, report.html and pictures there.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a model on held-out text.

    Perplexity, cross-entropy and bits per byte with confidence intervals, on the held-out part of the corpus that the
    model was trained on, of --corpus, or on --text. With --diversity, texts are written as the preset's generate
    section says, or --set generate.KEY=VALUE. With --thoughts, the thoughts of held-out documents are measured, and
    the loss with zeroed, shuffled and another document's thoughts. With --dreams, what a model dreams of them, and the
    loss with zeroed, mean, another document's and reversed dreams. With --retrieval, each held-out picture is compared
    with each held-out caption.
    """
    from dreamlm.cli.places import model_place
    from dreamlm.wiring.evaluation import EvaluationRequest
    from dreamlm.wiring.evaluation import evaluate as run_evaluation

    console = Console(as_json)
    place = model_place(checkpoint, run)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)  # before the work whose report it is for
    options = {"--batch-size": ("rows", batch_size), "--seed": ("seed", seed)}
    request = EvaluationRequest(
        place,
        text,
        corpus,
        max_tokens,
        [*(sets or ()), *assignments("eval", options), *assignments("generate", options)],
        device or "auto",
        extend_max_seq_len,
        layer_choice(rescale_layers),
        [*_writing(diversity, prompts, reference), *_of_modules(thoughts, dreams), *_comparing(retrieval)],
    )
    with console.live() as line:
        report = run_evaluation(
            request,
            lambda doing, done, total: line.show(f"{doing}  {done:,}/{total:,}", done / total),
            console.notice,
        )
    if as_json:
        console.document(report.to_json())
    else:
        _tell(console, report.perplexity)
        for section in report.sections:
            _tell_section(console, section)
    if out is not None:
        _write(report, out)  # last, so that a full disk does not cost the measurement


def _writing(diversity: int | None, prompts: Path | None, reference: Path | None) -> list["SectionRequest"]:
    """Raises: UserMistake for an option of a section that was not asked for."""
    from dreamlm.cli.prompts import prompts_in
    from dreamlm.core.errors import UserMistake
    from dreamlm.wiring.diversity import DiversityRequest

    if diversity is None:
        for option, value in (("--prompts", prompts), ("--reference", reference)):
            if value is not None:
                raise UserMistake(
                    f"{option} is for --diversity", hint=f"say how many texts to write: --diversity 64 {option} {value}"
                )
        return []
    return [DiversityRequest(diversity, [] if prompts is None else prompts_in(prompts), reference)]


def _of_modules(thoughts: bool, dreams: bool) -> list["SectionRequest"]:
    from dreamlm.wiring.dreams import DreamsRequest
    from dreamlm.wiring.thoughts import ThoughtsRequest

    asked: list[SectionRequest] = [ThoughtsRequest()] if thoughts else []
    return [*asked, DreamsRequest()] if dreams else asked


def _comparing(retrieval: bool) -> list["SectionRequest"]:
    from dreamlm.wiring.retrieval import RetrievalRequest

    return [RetrievalRequest()] if retrieval else []


def _write(report: "EvaluationReport", folder: Path) -> None:
    from dreamlm.core.errors import DreamLMError
    from dreamlm.core.evaluation.html_page import html_page
    from dreamlm.core.evaluation.plots import plot_report, save_figure

    try:
        (folder / "report.json").write_text(json.dumps(report.to_json(), indent=2) + "\n", encoding="utf-8")
        plot_report(report, folder / "report.png")
        drawn = {section.file_of(one): one.draw() for section in report.sections for one in section.pictures}
        for name, figure in drawn.items():
            save_figure(figure, folder / name)
        pictures = {name: (folder / name).read_bytes() for name in drawn}
        page = html_page(report, (folder / "report.png").read_bytes(), pictures)
        (folder / "report.html").write_text(page, encoding="utf-8")
    except OSError as error:
        what = f"the report could not be written: {error.strerror or error}"
        raise DreamLMError(what, where=str(folder), hint="--json prints it as well") from error


def _tell(console: Console, report: "PerplexityReport") -> None:
    def between(interval: "Interval | None", digits: int) -> str:
        return ABSENT if interval is None else f"{interval.low:.{digits}f} to {interval.high:.{digits}f}"

    rows = [
        ("cross-entropy", f"{report.cross_entropy:.4f}", between(report.cross_entropy_interval, 4), "nats per token"),
        ("perplexity", f"{report.perplexity:.3f}", between(report.perplexity_interval, 3), ""),
        ("bits per byte", f"{report.bits_per_byte:.4f}", between(report.bits_per_byte_interval, 4), ""),
    ]
    console.table(("measure", "value", f"{report.confidence:.0%} interval", "unit"), rows)
    if report.is_bound:
        console.result("")
        error = f"at most about {report.monte_carlo_error:.4f} nats per token"
        console.result(
            f"an upper bound, as a diffusion model has no other; its standard error of estimation is {error}"
        )
    if len(report.sources) > 1:
        console.result("")
        sources = [(one.source, one.tokens, f"{one.cross_entropy:.4f}") for one in report.sources]
        console.table(("source", "tokens", "cross-entropy"), sources)
    console.result("")
    windows = f"{report.windows:,} window" + ("s" if report.windows > 1 else "")
    console.result(f"on {report.tokens:,} tokens, {report.utf8_bytes:,} bytes, in {windows}")


def _tell_section(console: Console, section: "Section") -> None:
    from dreamlm.core.evaluation.section import figure_text

    rows = [
        (
            figure.name,
            ABSENT if figure.value is None else figure_text(figure.value),
            ABSENT
            if figure.interval is None
            else f"{figure_text(figure.interval.low)} to {figure_text(figure.interval.high)}",
            figure.unit,
        )
        for figure in section.figures
    ]
    console.result("")
    console.table((section.title.lower(), "value", f"{section.confidence:.0%} interval", "unit"), rows)
    console.result("")
    console.result(f"on {section.summary}")
    for note in section.notes:
        console.notice(f"note: {note}")

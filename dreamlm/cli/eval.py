"""`dreamlm eval`: how well a model predicts held-out text."""

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
)

if TYPE_CHECKING:
    from dreamlm.core.evaluation.bootstrap import Interval
    from dreamlm.core.evaluation.report import PerplexityReport


def evaluate(
    run: RunOption = None,
    checkpoint: CheckpointOption = None,
    text: Annotated[Path | None, typer.Option("--text", metavar="FILE", help="Measure on this UTF-8 file.")] = None,
    corpus: CorpusOption = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", min=1, help="Measure on a sample of the held-out documents.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Windows at once; never changes the result.")
    ] = None,
    extend_max_seq_len: ExtendOption = None,
    rescale_layers: RescaleOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write report.json and report.png there.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a model on held-out text.

    Perplexity, cross-entropy and bits per byte with confidence intervals, on the held-out part of the corpus that the
    model was trained on, of --corpus, or on --text.
    """
    from dreamlm.cli.places import model_place
    from dreamlm.wiring.evaluation import EvaluationRequest
    from dreamlm.wiring.evaluation import evaluate as run_evaluation

    console = Console(as_json)
    place = model_place(checkpoint, run)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)  # before the work whose report it is for
    sets = assignments("eval", {"--batch-size": ("rows", batch_size), "--seed": ("seed", seed)})
    request = EvaluationRequest(
        place, text, corpus, max_tokens, sets, device or "auto", extend_max_seq_len, layer_choice(rescale_layers)
    )
    with console.live() as line:
        report = run_evaluation(
            request, lambda done, total: line.show(f"evaluate  {done}/{total} batches", done / total)
        )
    if as_json:
        console.document(report.to_json())
    else:
        _tell(console, report)
    if out is not None:
        _write(report, out)  # last, so that a full disk does not cost the measurement


def _write(report: "PerplexityReport", folder: Path) -> None:
    from dreamlm.core.errors import DreamLMError
    from dreamlm.core.evaluation.plots import plot_report

    try:
        (folder / "report.json").write_text(json.dumps(report.to_json(), indent=2) + "\n", encoding="utf-8")
        plot_report(report, folder / "report.png")
    except OSError as error:
        what = f"the report could not be written: {error.strerror or error}"
        raise DreamLMError(what, where=str(folder), hint="--json prints it as well") from error


def _tell(console: Console, report: "PerplexityReport") -> None:
    def between(interval: "Interval | None", digits: int) -> str:
        return "-" if interval is None else f"{interval.low:.{digits}f} to {interval.high:.{digits}f}"

    rows = [
        ("cross-entropy", f"{report.cross_entropy:.4f}", between(report.cross_entropy_interval, 4), "nats per token"),
        ("perplexity", f"{report.perplexity:.3f}", between(report.perplexity_interval, 3), ""),
        ("bits per byte", f"{report.bits_per_byte:.4f}", between(report.bits_per_byte_interval, 4), ""),
    ]
    console.table(("measure", "value", f"{report.confidence:.0%} interval", "unit"), rows)
    if len(report.sources) > 1:
        console.result("")
        sources = [(one.source, one.tokens, f"{one.cross_entropy:.4f}") for one in report.sources]
        console.table(("source", "tokens", "cross-entropy"), sources)
    console.result("")
    console.result(f"on {report.tokens:,} tokens, {report.utf8_bytes:,} bytes, in {report.windows:,} windows")

import math
import subprocess
import sys
from pathlib import Path

import pytest
from small_model import hand_made, small_model

from dreamlm.core.errors import UserMistake
from dreamlm.core.evaluation.perplexity import evaluate
from dreamlm.core.evaluation.plots import draw_report, plot_report, pooled
from dreamlm.core.evaluation.section import EvaluationReport


def test_the_page_is_a_picture_of_the_reports_figures(tmp_path: Path) -> None:
    report = evaluate(small_model(), hand_made(), 4, ["books", "wiki", "papers"])
    plot_report(EvaluationReport(report), tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    figure = draw_report(report)
    by_position, by_source = figure.axes
    assert list(by_position.lines[0].get_ydata()) == list(report.position_cross_entropy)
    bars = {
        label.get_text(): bar.get_width()
        for label, bar in zip(by_source.get_yticklabels(), by_source.patches, strict=True)
    }
    assert bars == {source.source: source.cross_entropy for source in report.sources}
    assert f"{report.bits_per_byte:.4f} bits per byte" in figure.get_suptitle()


def test_one_window_without_intervals_can_be_drawn(tmp_path: Path) -> None:
    plot_report(EvaluationReport(evaluate(small_model(), hand_made(1), 4)), tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 10_000


def test_pooling_passes_over_positions_without_targets() -> None:
    centres, means = pooled([math.nan] * 3 + [2.0] * 20)
    assert means == [2.0] * len(means)
    assert len(means) > 3
    assert centres[0] >= 3


def test_pooling_counts_every_position_once() -> None:
    losses = [float(place % 7) for place in range(100)]
    centres, means = pooled(losses)
    assert centres == sorted(centres)
    assert (centres[0], means[0]) == (1.0, losses[0])
    assert pooled([2.5] * 33)[1] == pytest.approx([2.5] * len(pooled([2.5] * 33)[0]))


@pytest.mark.parametrize("name", ["missing/report.png", "report.unknown"])
def test_a_page_that_cannot_be_written_names_its_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserMistake, match="cannot be written") as caught:
        plot_report(EvaluationReport(evaluate(small_model(), hand_made(2), 4)), tmp_path / name)
    assert caught.value.where == str(tmp_path / name)


def test_evaluating_does_not_import_matplotlib() -> None:
    code = "import sys, dreamlm.core.evaluation.plots; raise SystemExit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""`dreamlm ckpt`: look at the snapshots of a run, check them, compare them, put them in order, export them."""

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dreamlm.cli.console import Console
from dreamlm.cli.options import CheckpointOption, JsonOption, RunOption

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List, check, compare, prune and export snapshots.")


class Format(StrEnum):
    """What a snapshot can be exported to."""

    LLAMA = "llama"
    PTH = "pth"


Snapshot = Annotated[
    str | None,
    typer.Argument(metavar="[NAME|DIR]", help="lm_prev of --run, or a folder; default: the latest of --run."),
]


@app.command("list")
def list_snapshots(run: RunOption = None, as_json: JsonOption = False) -> None:
    """The snapshots of a run, newest first."""
    from dreamlm.checkpoints.inspect import listing
    from dreamlm.cli.live_line import count
    from dreamlm.cli.places import run_folder

    console = Console(as_json)
    found = listing(run_folder(run))
    if as_json:
        console.document(found)
        return
    rows = []
    for one in found:
        figures = ("-",) * 5
        if not one.problem:
            figures = (
                f"{one.step:,}",
                count(one.tokens or 0),
                _held_out(one),
                f"{count(one.size_bytes or 0)}B",
                one.created or "-",
            )
        rows.append((one.name, *figures, one.problem or ", ".join(one.roles)))
    console.table(("name", "step", "tokens", "held-out", "size", "created", "notes"), rows)


def _held_out(one: "Listed") -> str:
    if one.reward is not None:
        return f"reward {one.reward:.4f}"
    most = "at most " if one.is_bound else ""
    return "-" if one.validation_loss is None else f"loss {most}{one.validation_loss:.4f}"


@app.command()
def show(snapshot: Snapshot = None, run: RunOption = None, as_json: JsonOption = False) -> None:
    """Record, files and tensors of a snapshot."""
    from dreamlm.checkpoints.inspect import describe
    from dreamlm.cli.live_line import count
    from dreamlm.cli.places import snapshot_folder

    console = Console(as_json)
    description = describe(snapshot_folder(snapshot, run))
    if as_json:
        console.document(description)
        return
    facts = {**description.record, "parameters": f"{description.parameters:,}"}
    width = max(map(len, facts))
    for name, value in facts.items():
        console.result(f"{name.ljust(width)}  {'-' if value is None else value}")
    console.result("")
    console.table(("file", "size"), [(name, f"{count(size)}B") for name, size in description.files.items()])
    console.result("")
    tensors = [tensor for tensor in description.tensors if tensor.file == "model.safetensors"]
    rows = [(tensor.name, tensor.dtype, "x".join(map(str, tensor.shape)), tensor.elements) for tensor in tensors]
    console.table(("tensor", "type", "shape", "elements"), rows)


@app.command()
def verify(snapshot: Snapshot = None, run: RunOption = None, as_json: JsonOption = False) -> None:
    """Compare every byte with the manifest.

    Without a name, of every snapshot of the run. Exit code 1 on damage.
    """
    from dreamlm.checkpoints.inspect import examine, listing
    from dreamlm.cli.live_line import count
    from dreamlm.cli.places import run_folder, snapshot_folder

    console = Console(as_json)
    if snapshot is None:
        home = run_folder(run)
        folders = [home / "checkpoints" / one.name for one in listing(home)]
    else:
        folders = [snapshot_folder(snapshot, run)]
    verdicts = [examine(folder) for folder in folders]
    if as_json:
        console.document([{**asdict(verdict), "intact": verdict.intact} for verdict in verdicts])
    for verdict in verdicts:
        if verdict.intact and not as_json:
            console.result(f"{verdict.name}: intact, {verdict.files} files, {count(verdict.size_bytes)}B")
        for damage in verdict.damages:
            console.notice(f"{verdict.name}: {damage.message}")
    if not all(verdict.intact for verdict in verdicts):
        raise typer.Exit(1)


@app.command()
def diff(first: str, second: str, run: RunOption = None, as_json: JsonOption = False) -> None:
    """Keys and tensors in which two snapshots differ."""
    from dreamlm.checkpoints.inspect import diff as compare
    from dreamlm.cli.places import snapshot_folder

    console = Console(as_json)
    difference = compare(snapshot_folder(first, run), snapshot_folder(second, run))
    if as_json:
        console.document(difference)
        return
    if difference.keys:
        rows = [(f"{one.file}: {one.key}", _value(one.first), _value(one.second)) for one in difference.keys]
        console.table(("key", first, second), rows)
    if difference.tensors:
        largest = [
            (one.name, one.first or "-", one.second or "-", _figure(one.max_abs_difference))
            for one in difference.tensors
        ]
        console.table(("tensor", first, second, "largest difference"), largest)
    console.result(f"{len(difference.tensors)} tensors differ, {difference.tensors_equal} are equal bit for bit")


@app.command()
def rotate(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The snapshot to go back to.")] = "lm_prev",
    run: RunOption = None,
    as_json: JsonOption = False,
) -> None:
    """Go back: make an older snapshot the latest.

    The next training goes on from it.
    """
    from dreamlm.checkpoints.store import Store
    from dreamlm.cli.places import run_folder

    console = Console(as_json)
    home = run_folder(run)
    Store(home, on_notice=console.notice).rotate(name)
    list_snapshots(home, as_json)


@app.command()
def prune(
    run: RunOption = None,
    keep: Annotated[int, typer.Option("--keep", min=1, max=3, help="How many of the newest stay.")] = 1,
    drop_best: Annotated[bool, typer.Option("--drop-best", help="Delete the best one too.")] = False,
    drop_finite: Annotated[bool, typer.Option("--drop-finite", help="Delete the last finite one too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete all but the newest, best and last finite."""
    from dreamlm.checkpoints.store import Store
    from dreamlm.cli.live_line import count
    from dreamlm.cli.places import run_folder

    console = Console(as_json)
    store = Store(run_folder(run), on_notice=console.notice)
    deleted = store.prune(keep, keep_best=not drop_best, keep_finite=not drop_finite)
    if as_json:
        console.document([{"name": info.name, "step": info.record.step, "bytes": info.size_bytes} for info in deleted])
        return
    for info in deleted:
        console.result(f"deleted {info.name}, step {info.record.step:,}, {count(info.size_bytes)}B")
    if not deleted:
        console.result("nothing to delete")


@app.command()
def export(
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="A new folder, or a file for pth.")],
    to: Annotated[
        Format, typer.Option("--to", help="llama: a stock transformers folder; pth: one torch file of plain tensors.")
    ] = Format.LLAMA,
    run: RunOption = None,
    checkpoint: CheckpointOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a model in a form that other tools read."""
    from dreamlm.cli.live_line import count
    from dreamlm.cli.places import model_place, snapshot_folder

    console = Console(as_json)
    snapshot = snapshot_folder(str(model_place(checkpoint, run)), None)
    if to is Format.PTH:
        from dreamlm.checkpoints.convert.legacy import export_pth

        file = export_pth(snapshot, target)
        outcome = {"file": str(file), "size_bytes": file.stat().st_size}
        sentence = f"{file}, {count(file.stat().st_size)}B: torch.load(..., weights_only=True) reads it"
    else:
        from dreamlm.checkpoints.convert.llama import export as export_folder

        exported = export_folder(snapshot, target)
        outcome = asdict(exported)
        size = f"{count(exported.parameters)} parameters, {count(exported.size_bytes)}B"
        sentence = f"{exported.folder}, a {exported.architecture} of {size}: transformers reads it without dreamlm"
    if as_json:
        console.document(outcome)
    else:
        console.result(sentence)


@app.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .pth file that export wrote.")],
    run: RunOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a run of a .pth file.

    It has no optimizer state: evaluate it, write with it, or start another run from it with model.init_from.
    """
    from dreamlm.checkpoints.convert.legacy import import_run
    from dreamlm.cli.places import run_folder

    console = Console(as_json)
    folder = import_run(file, run_folder(run))
    if as_json:
        console.document({"snapshot": str(folder)})
    else:
        console.result(str(folder))


def _figure(number: float | None) -> str:
    return "-" if number is None else f"{number:.3e}"


def _value(value: object) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= 40 else text[:37] + "..."

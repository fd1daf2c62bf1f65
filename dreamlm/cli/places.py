"""Which folder a command means: a run, one of its snapshots, or a snapshot folder anywhere."""

from pathlib import Path

from dreamlm.core.errors import UserMistake

RUNS = Path("runs")
"""Where runs go when nobody says otherwise."""
LATEST = "lm_current"


def run_folder(run: Path | None) -> Path:
    """The run folder a command was given. Raises: UserMistake naming the runs there are when it was not."""
    if run is not None:
        return run
    raise UserMistake("which run?", valid=_runs(), hint="name its folder with --run DIR")


def snapshot_folder(name: str | None, run: Path | None) -> Path:
    """The snapshot that `NAME|DIR` and `--run` mean together.

    A name such as lm_prev belongs to `--run`; a folder is a snapshot itself, or a run whose latest snapshot is meant.
    Raises: UserMistake when neither was given, or there is no such folder.
    """
    if name is not None and run is not None:
        folder = run / "checkpoints" / name
    else:
        place = Path(name) if name is not None else run_folder(run)
        folder = _latest(place) if (place / "checkpoints").is_dir() or name is None else place
    if not folder.exists():
        hint = "dreamlm ckpt list --run DIR shows the snapshots of a run"
        raise UserMistake("there is no such snapshot", where=str(folder), hint=hint)
    return folder


def _latest(run: Path) -> Path:
    """The snapshot that lm_current names, or where an interrupted rotation has left none of that name, the newest."""
    from dreamlm.checkpoints.store import Store

    folder = run / "checkpoints" / LATEST
    newest = None if folder.exists() else Store(run).latest()
    return newest.path if newest is not None else folder


def model_place(checkpoint: Path | None, run: Path | None) -> Path:
    """The folder to load a model from. Raises: UserMistake when none was given, or two."""
    if checkpoint is not None and run is not None:
        raise UserMistake("--run and --checkpoint both name a model", hint="leave one of them out")
    if checkpoint is None and run is None:
        raise UserMistake(
            "which model?", valid=_runs(), hint="name a run with --run DIR, or one snapshot with --checkpoint DIR"
        )
    return checkpoint or run_folder(run)


def has_snapshots(run: Path) -> bool:
    """Whether a run was started in this folder and saved at least once."""
    return (run / "checkpoints").is_dir()


def _runs() -> list[str]:
    return sorted(str(path.parent) for path in RUNS.glob("*/checkpoints"))

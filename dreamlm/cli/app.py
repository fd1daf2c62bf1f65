"""The `dreamlm` command: its subcommands, and the one boundary where errors become text and exit codes.

Exit codes: 0 done, 1 failed, 2 the user's mistake, 3 paused by an alarm (rl.ppo.alarms.pause), 75 out of memory until a
smaller micro-batch is set, 129, 130 or 143 interrupted by SIGHUP, SIGINT or SIGTERM, 141 nobody reads the output any
more (`dreamlm ... | head`).
"""

import errno
import os
import select
import signal
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from types import FrameType
from typing import Annotated

import typer

from dreamlm import __version__
from dreamlm.cli import ckpt, doctor, eval, generate, prepare, presets, rl, train
from dreamlm.cli.aside import silence
from dreamlm.cli.console import Console
from dreamlm.core.errors import DreamLMError, Interrupted, Paused
from dreamlm.core.training.interruption import ending_signals

app = typer.Typer(
    name="dreamlm",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        Console().result(f"dreamlm {__version__}")
        raise typer.Exit


@app.callback()
def dreamlm(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    local_rank: Annotated[int | None, typer.Option("--local_rank", hidden=True)] = None,
) -> None:
    """Prepare documents, train a small language model, measure it and let it write.

    Start with: dreamlm train --preset tiny
    """
    del local_rank  # the deepspeed launcher puts it before every command, and says the same in LOCAL_RANK


app.command()(prepare.prepare)
app.command()(train.train)
app.command("eval")(eval.evaluate)
app.command()(generate.generate)
app.add_typer(rl.app, name="rl")
app.add_typer(ckpt.app, name="ckpt")
app.add_typer(presets.app, name="presets")
app.command()(doctor.doctor)


def main() -> None:
    """The console script."""
    _open_standard_streams()
    code = run(sys.argv[1:])
    if "RANK" in os.environ:
        from dreamlm.core.training.backend.launch import end_rank

        end_rank(code)
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns its exit code. An exception that is a bug of ours leaves with its traceback."""
    _end_cleanly_on_signals()
    try:
        app(args=list(arguments), prog_name="dreamlm")
    except SystemExit as end:
        _raise_if_not_ours(end)
        gone = isinstance(end.__context__, BrokenPipeError)
        code = READER_GONE if gone else end.code if isinstance(end.code, int) else 0
    except Interrupted as interruption:
        Console().notice(str(interruption))
        code = 128 + interruption.signal_number
    except Paused as pause:
        Console().notice(str(pause))
        code = pause.exit_code
    except DreamLMError as error:
        Console().error(error)
        code = error.exit_code
    except OSError as error:
        if _terminal_gone(error):
            return _flushed(READER_GONE)
        if error.errno not in _SURROUNDINGS:
            raise
        Console().error(_refused_by_the_system(error))
        code = DreamLMError.exit_code
    return _flushed(code)


READER_GONE = 128 + signal.SIGPIPE
"""As the shell reports a command that SIGPIPE ended."""

_SURROUNDINGS = {
    errno.EACCES: "check the permissions, or choose another place",
    errno.EBADF: "the output was closed before the command began, as `>&-` does: send it to a file or to /dev/null",
    errno.EDQUOT: "free some space, or choose another place",
    errno.EEXIST: "a folder is needed here, and a file is in the way: choose another place",
    errno.EIO: "the disk or the network behind it fails",
    errno.EMFILE: "raise the limit on open files: ulimit -n",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOSPC: "free some space, or choose another place",
    errno.ENOTDIR: "a folder is needed here, and a file is in the way: choose another place",
    errno.EPERM: "check the permissions, or choose another place",
    errno.EROFS: "this file system cannot be written to: choose another place",
}
"""What the system refuses whatever our code does, and what helps; any other OSError is a bug of ours."""


def _refused_by_the_system(error: OSError) -> DreamLMError:
    what = f"the system refused to read or write: {error.strerror or error}"
    return DreamLMError(what, where=str(error.filename or ""), hint=_SURROUNDINGS[error.errno or 0])


def _end_cleanly_on_signals() -> None:
    """SIGTERM and SIGHUP unwind the stack as SIGINT does, so that temporary files go.

    Commands that save first install their own handler.
    """
    owner = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            os._exit(128 + number)
        raise SystemExit(128 + number)

    for number in ending_signals():
        if number != signal.SIGINT:
            signal.signal(number, end)


def _open_standard_streams() -> None:
    """Fill descriptors that were closed before we began, lest a file of ours get one and the output go there.

    What then is written to stdout fails as it is flushed; what is written to stderr is lost; stdin is empty. Text goes
    in and out as UTF-8 whatever the locale says; bytes that are none come in as lone surrogates, to be told by line.
    """
    flags = (os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)
    for descriptor, flag in enumerate(flags):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, flag)  # takes the lowest that is free
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115  open as long as the process is
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    for stream, errors in (
        (sys.stdin, "surrogateescape"),
        (sys.stdout, "surrogateescape"),  # names of files that are no UTF-8 go out as they came
        (sys.stderr, "backslashreplace"),
    ):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors=errors)


def _raise_if_not_ours(end: SystemExit) -> None:
    """Typer ends quietly on every EPIPE; only one from our own closed stdout or stderr deserves that."""
    cause = end.__context__
    if isinstance(cause, BrokenPipeError) and not (_reader_gone(1) or _reader_gone(2)):
        raise cause


def _reader_gone(descriptor: int) -> bool:
    """Whether the pipe's other end is closed, or the terminal."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & (select.POLLERR | select.POLLHUP | select.POLLNVAL) for _, event in poll.poll(0))


def _terminal_gone(error: OSError) -> bool:
    """Whether it says of a terminal what EPIPE says of a pipe."""
    return error.errno == errno.EIO and (_reader_gone(1) or _reader_gone(2))


def _flushed(code: int) -> int:
    """Write out what is buffered; `dreamlm ... | head` ends without a word once the reader is gone."""
    try:
        sys.stderr.flush()
    except OSError:
        silence(sys.stderr)  # else Python tries once more as it ends, and has a code of its own for it
    try:
        sys.stdout.flush()
    except OSError as error:
        gone = isinstance(error, BrokenPipeError) or _terminal_gone(error)
        silence(sys.stdout)
        if gone:
            return code or READER_GONE
        if code == 0:
            Console().error(_refused_by_the_system(error) if error.errno in _SURROUNDINGS else DreamLMError(str(error)))
        return code or 1
    return code

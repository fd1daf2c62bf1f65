"""The error boundary: exit codes, and which stream says what. Exact texts, because people and scripts read them."""

import errno
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from dreamlm.cli import app as boundary
from dreamlm.core.errors import DataError, Interrupted, Paused, UserMistake


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, cli: Any) -> Callable[[Callable[[], None]], Any]:
    """Runs a command line whose only command does what the test says."""

    def call(body: Callable[[], None]) -> Any:
        app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
        app.command()(body)
        monkeypatch.setattr(boundary, "app", app)
        return cli()

    return call


def raising(error: BaseException) -> Callable[[], None]:
    def body() -> None:
        raise error

    return body


def test_a_mistake_of_the_user_exits_2_and_says_what_where_and_what_helps(command: Any) -> None:
    error = UserMistake("no such thing", where="here.json:3", valid=["a", "b"], hint="try a")
    outcome = command(raising(error))
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == "error: no such thing\nat: here.json:3\nvalid: a, b\nhelp: try a\n"


def test_a_failure_exits_1(command: Any) -> None:
    outcome = command(raising(DataError("the corpus is damaged")))
    assert (outcome.code, outcome.out, outcome.err) == (1, "", "error: the corpus is damaged\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_exits_128_plus_the_signal(command: Any, number: signal.Signals, code: int) -> None:
    outcome = command(raising(Interrupted(number, "saved at step 7")))
    assert (outcome.code, outcome.out, outcome.err) == (code, "", "saved at step 7\n")


def test_a_pause_is_no_error_and_exits_with_a_code_of_its_own(command: Any) -> None:
    outcome = command(raising(Paused(7, ["entropy is low"], 0.00015, 0.2, hint="the same command goes on")))
    assert (outcome.code, outcome.out) == (3, "")
    assert outcome.err == (
        "paused by an alarm at iteration 7: entropy is low; a snapshot was saved, and the run goes on with the "
        "learning rate 0.00015 and the KL coefficient 0.2\nhelp: the same command goes on\n"
    )


def test_control_c_exits_130_without_a_traceback(command: Any) -> None:
    outcome = command(raising(KeyboardInterrupt()))
    assert (outcome.code, outcome.out, outcome.err) == (130, "", "")


def test_a_bug_of_ours_keeps_its_traceback(command: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        command(raising(ZeroDivisionError()))


def test_a_broken_pipe_that_is_not_ours_is_not_swallowed(command: Any) -> None:
    with pytest.raises(BrokenPipeError):
        command(raising(BrokenPipeError(32, "to a worker")))


def test_an_unknown_command_suggests_the_near_one(cli: Any) -> None:
    outcome = cli("prests")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.endswith("Error: No such command 'prests'. Did you mean 'presets'?\n")


def test_the_version_is_a_result(cli: Any) -> None:
    from dreamlm import __version__

    outcome = cli("--version")
    assert (outcome.code, outcome.out, outcome.err) == (0, f"dreamlm {__version__}\n", "")


def test_a_reader_that_leaves_ends_the_command_quietly() -> None:
    program = "from dreamlm.cli.app import main; main()"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", program, "presets", "list"], stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_terminal_that_is_gone_is_a_reader_that_left() -> None:
    """Each line of a terminal's is written at once; the last has no end, and is written as the command ends."""
    program = "import sys; from dreamlm.cli import app; {}sys.argv[1:] = ['presets', 'list']; app.main()"
    for unfinished in ("", "app.app = lambda **_: sys.exit(0 * sys.stdout.write('...')); "):
        keyboard, terminal = pty.openpty()
        os.close(keyboard)
        command = [sys.executable, "-c", program.format(unfinished)]
        done = subprocess.run(command, stdout=terminal, stderr=subprocess.PIPE, check=False)
        os.close(terminal)
        assert (done.returncode, done.stderr) == (141, b"")


def test_a_closed_stdout_is_an_error_and_no_traceback() -> None:
    program = f"exec {sys.executable} -c 'from dreamlm.cli.app import main; main()' --version >&-"
    done = subprocess.run(["sh", "-c", program], stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the system refused to read or write: Bad file descriptor\n")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("ending", ["< text", "<&-"])
def test_text_goes_in_and_out_as_utf_8_in_any_locale(tmp_path: Path, ending: str) -> None:
    program = (
        "import sys, typer\n"
        "from dreamlm.cli import app as boundary\n"
        "boundary.app = typer.Typer(pretty_exceptions_enable=False)\n"
        "@boundary.app.command()\n"
        "def work():\n"
        "    assert not sys.stdin.isatty()\n"
        "    print(ascii(sys.stdin.read()), '\\u65e5\\udcff')\n"
        "    print('\\u65e5\\ud800', file=sys.stderr)\n"
        "boundary.main()"
    )
    (tmp_path / "text").write_bytes(b"\xe6\x97\xa5\xff")
    done = subprocess.run(
        ["sh", "-c", f'"$0" -c "$1" {ending}', sys.executable, program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "iso-8859-1", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
    )
    read = "''" if ending == "<&-" else r"'\u65e5\udcff'"
    assert done.stderr == "日\\ud800\n".encode()
    assert (done.returncode, done.stdout) == (0, f"{read} 日".encode() + b"\xff\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_polite_end_unwinds_so_that_temporary_files_go(tmp_path: Path, number: signal.Signals) -> None:
    program = (
        "import signal, time, tempfile, typer\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # the suite may run under nohup
        "from dreamlm.cli import app as boundary\n"
        "boundary.app = typer.Typer(pretty_exceptions_enable=False)\n"
        "@boundary.app.command()\n"
        "def work():\n"
        f"    with tempfile.TemporaryDirectory(dir={str(tmp_path)!r}):\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(60)\n"
        "boundary.main()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"ready\n"
        assert list(tmp_path.iterdir())
        process.send_signal(number)
        began = time.monotonic()
        assert process.wait(timeout=30) == 128 + number
        assert time.monotonic() - began < 30
        assert process.stderr.read() == b""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "sentence", "help_begins"),
    [
        (errno.EACCES, "Permission denied", "check the permissions"),
        (errno.ENOSPC, "No space left on device", "free some space"),
        (errno.EROFS, "Read-only file system", "this file system cannot be written to"),
    ],
)
def test_what_the_system_refuses_is_no_bug(command: Any, number: int, sentence: str, help_begins: str) -> None:
    outcome = command(raising(OSError(number, sentence, "/far/away")))
    assert (outcome.code, outcome.out) == (1, "")
    expected = f"error: the system refused to read or write: {sentence}\nat: /far/away\nhelp: {help_begins}"
    assert outcome.err.startswith(expected)


def test_a_file_that_our_code_forgot_keeps_its_traceback(command: Any) -> None:
    with pytest.raises(FileNotFoundError):
        command(raising(FileNotFoundError(errno.ENOENT, "No such file", "x")))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("arguments", [("presets", "list"), ("presets", "schema")])
def test_a_result_that_cannot_be_written_is_a_failure(arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "dreamlm.cli", *arguments], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: the system refused to read or write: No space left on device\n")
    assert "Traceback" not in ended.stderr

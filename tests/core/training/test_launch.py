"""Starting ranks: what each is told, who speaks, and that none is left behind, however the launcher ends."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dreamlm.core.errors import RangeError
from dreamlm.core.training.backend.launch import MICRO_ROWS, NOTE, launch, leave_note

TIMEOUT_SECONDS = 30
LAUNCHER = """
import json, sys
from dreamlm.core.training.backend.launch import launch
ended = launch([sys.executable, "-c", sys.argv[1], *sys.argv[2:]], 2, grace_seconds=0.3)
print(json.dumps(vars(ended)))
sys.exit(ended.exit_code)
"""
MARK_AND_WAIT = """
import os, pathlib, signal, sys, time
def note(number, frame):
    with mark.open("a") as file:
        file.write(f" {number}")
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, note)
signal.signal(signal.SIGINT, note)
signal.signal(signal.SIGHUP, note)
mark = pathlib.Path(sys.argv[1], "pid" + os.environ["RANK"])
mark.with_suffix(".new").write_text(str(os.getpid()))
mark.with_suffix(".new").replace(mark)
time.sleep(60)
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """A launcher of two ranks that run a script; killed when the test ends, which ends its ranks."""
    launchers: list[subprocess.Popen[str]] = []

    def begin(script: str, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        launchers.append(
            subprocess.Popen(
                [sys.executable, "-c", LAUNCHER, script, *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, **environment},
                preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # the suite may run under nohup
            )
        )
        return launchers[-1]

    yield begin
    for launcher in launchers:
        launcher.kill()
        launcher.communicate()


def result(launcher: "subprocess.Popen[str]") -> tuple[dict[str, object], str, str]:
    """What `launch` returned, what else was printed, and stderr."""
    stdout, stderr = launcher.communicate(timeout=TIMEOUT_SECONDS)
    *printed, ended = stdout.splitlines()
    return json.loads(ended), "\n".join(printed), stderr


def pids(folder: Path) -> list[int]:
    """Of both ranks, once they are ready for signals."""
    files = [folder / "pid0", folder / "pid1"]
    wait_until(lambda: all(file.exists() for file in files))
    return [int(file.read_text().split()[0]) for file in files]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    """Ended; a zombie whose new parent has not looked yet has ended too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_each_rank_is_told_its_place_and_its_share_of_the_cores(start: Start, tmp_path: Path) -> None:
    script = "import json, os, sys; json.dump(dict(os.environ), open(sys.argv[1] + '/env' + os.environ['RANK'], 'w'))"
    without = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, "-c", LAUNCHER, script, str(tmp_path)]
    subprocess.run(command, env=without, check=True, timeout=TIMEOUT_SECONDS, capture_output=True)
    told = [json.loads((tmp_path / f"env{rank}").read_text()) for rank in range(2)]
    assert [(env["RANK"], env["LOCAL_RANK"], env["WORLD_SIZE"]) for env in told] == [("0", "0", "2"), ("1", "1", "2")]
    assert told[0]["MASTER_PORT"] == told[1]["MASTER_PORT"] != "0"
    assert {env["MASTER_ADDR"] for env in told} == {"127.0.0.1"}
    assert {env["OMP_NUM_THREADS"] for env in told} == {str(max(1, len(os.sched_getaffinity(0)) // 2))}
    assert not any("LOCAL_SIZE" in env for env in told)


def test_the_users_own_thread_count_is_kept(start: Start) -> None:
    ended, printed, _ = result(start("import os; print(os.environ['OMP_NUM_THREADS'])", OMP_NUM_THREADS="7"))
    assert (ended["exit_code"], printed) == (0, "7")


def test_ranks_can_meet_at_the_kept_port(start: Start) -> None:
    script = """
import os
from datetime import timedelta
from torch.distributed import TCPStore
rank, port = int(os.environ["RANK"]), int(os.environ["MASTER_PORT"])
store = TCPStore(os.environ["MASTER_ADDR"], port, 2, rank == 0, timedelta(seconds=20))
store.set(f"from{rank}", "hello")
print(store.get(f"from{1 - rank}").decode())
store.get("end") if rank == 0 else store.set("end", "")  # rank 0 holds the store: it ends last
"""
    ended, printed, stderr = result(start(script))
    assert (ended["exit_code"], printed, stderr) == (0, "hello", "")


def test_only_the_first_rank_speaks(start: Start) -> None:
    script = "import os, sys; print('out', os.environ['RANK']); print('err', os.environ['RANK'], file=sys.stderr)"
    ended, printed, stderr = result(start(script))
    assert ended == {"exit_code": 0, "failed_rank": None, "output": "", "note": "", "signal_number": 0}
    assert (printed, stderr) == ("out 0", "err 0\n")


def test_a_rank_that_fails_ends_the_others_and_its_last_words_are_kept(start: Start) -> None:
    script = """
import os, sys, time
if os.environ["RANK"] == "0":
    time.sleep(60)
print("\\n".join(f"line {number}" for number in range(100)), file=sys.stderr)
sys.exit(3)
"""
    begun = time.monotonic()
    ended, _, stderr = result(start(script))
    assert (ended["exit_code"], ended["failed_rank"], stderr) == (3, 1, "")
    assert str(ended["output"]).splitlines() == [f"line {number}" for number in range(60, 100)]
    assert time.monotonic() - begun < TIMEOUT_SECONDS / 2


def test_a_mistake_that_every_rank_found_is_said_once(start: Start) -> None:
    script = """
import os, sys, time
time.sleep(0.2 * (os.environ["RANK"] == "0"))
print("no such preset", file=sys.stderr)
sys.exit(2)
"""
    ended, _, stderr = result(start(script))
    assert stderr == "no such preset\n"
    assert (ended["exit_code"], ended["output"]) == (2, "")


def test_a_rank_that_ignores_sigterm_is_killed_when_another_failed(start: Start) -> None:
    script = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.environ["RANK"] == "1":
    time.sleep(60)
sys.exit(1)
"""
    ended, _, _ = result(start(script))
    assert (ended["exit_code"], ended["failed_rank"]) == (1, 0)


def test_a_rank_killed_by_a_signal_gives_128_and_its_number(start: Start) -> None:
    ended, _, _ = result(start("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"))
    assert (ended["exit_code"], ended["output"]) == (137, "killed by SIGKILL")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_reaches_every_rank_once_and_its_exit_code_is_passed_on(
    start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    launcher = start(MARK_AND_WAIT, str(tmp_path))
    pids(tmp_path)
    launcher.send_signal(number)
    ended, _, _ = result(launcher)
    assert ended["exit_code"] == launcher.returncode == 128 + number
    assert ended["signal_number"] == number
    assert [(tmp_path / f"pid{rank}").read_text().split()[1:] for rank in range(2)] == [[str(int(number))]] * 2


def test_ctrl_c_in_the_terminal_reaches_the_launcher_alone(start: Start, tmp_path: Path) -> None:
    """A terminal sends SIGINT to its whole process group; twice would mean: stop without saving."""
    launcher = start(MARK_AND_WAIT, str(tmp_path))
    groups = {os.getpgid(pid) for pid in pids(tmp_path)}
    assert os.getpgid(launcher.pid) not in groups


def test_killing_the_launcher_leaves_no_rank(start: Start, tmp_path: Path) -> None:
    launcher = start(MARK_AND_WAIT, str(tmp_path))
    ranks = pids(tmp_path)
    launcher.kill()
    wait_until(lambda: all(is_gone(pid) for pid in ranks))


def test_a_rank_may_leave_a_note_for_whoever_launched_it(start: Start) -> None:
    script = """
import os, sys
from dreamlm.core.training.backend.launch import leave_note
sys.exit(75 if os.environ["RANK"] == "1" and leave_note("4 rows") else 0)
"""
    ended, _, _ = result(start(script))
    assert (ended["exit_code"], ended["failed_rank"], ended["note"]) == (75, 1, "4 rows")


def test_a_note_without_a_launcher_is_not_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NOTE, raising=False)
    assert not leave_note("4 rows")


def test_ranks_are_told_what_they_shall_be_told(capfd: pytest.CaptureFixture[str]) -> None:
    script = f"import os; print(os.environ['{MICRO_ROWS}'])"
    assert launch([sys.executable, "-c", script], 2, environment={MICRO_ROWS: "4"}).exit_code == 0
    assert capfd.readouterr().out == "4\n"


def test_no_process_at_all_is_a_mistake() -> None:
    with pytest.raises(RangeError, match="0 processes cannot train") as caught:
        launch(["true"], 0)
    assert caught.value.where == "--nproc"


def test_a_rank_ends_with_its_code_whatever_the_interpreter_would_still_do() -> None:
    script = (
        "import atexit, os; from dreamlm.core.training.backend.launch import end_rank; "
        "atexit.register(os.abort); print('said', end=''); end_rank(3)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (3, "said")

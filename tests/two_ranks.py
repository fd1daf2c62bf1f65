"""A script in two processes at once, launched as `--nproc 2` launches them."""

import os
import subprocess
import sys
from pathlib import Path

LAUNCH = """
import sys
from dreamlm.core.training.backend.launch import launch
ended = launch(sys.argv[1:], 2)
sys.stderr.write(ended.output)
sys.exit(ended.exit_code)
"""


def run_in_two_ranks(worker: Path, *arguments: str | Path, seconds: float) -> str:
    """What the processes wrote to stdout, once both ended well; they may import whatever the test can."""
    command = [sys.executable, "-c", LAUNCH, sys.executable, str(worker), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=environment, timeout=seconds, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout

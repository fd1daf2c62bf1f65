"""Peak memory does not grow with the input, neither in the preparing process nor in its workers."""

import json
import subprocess
import sys
from pathlib import Path

import prepare_by_hand
import pytest
from prepare_by_hand import sentence

MEASURED = """
import json, re, sys, threading, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from prepare_by_hand import config_of, prepared

peaks = {}

def watch():
    while True:
        for children in Path("/proc/self/task").glob("*/children"):
            for process in children.read_text().split():
                note(process)
        time.sleep(0.01)

def note(process):
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return
    if found := re.search(r"VmHWM:\\s+(\\d+)", status):
        peaks[process] = int(found[1])

if __name__ == "__main__":
    base, name, workers = Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    threading.Thread(target=watch, daemon=True).start()
    config = config_of({"type": "text", "paths": name}, shard_text_bytes=2**17)
    corpus = prepared(config, base / f"corpus of {name}", base, workers=workers)
    note("self")
    others = [peak for process, peak in peaks.items() if process != "self"]
    print(json.dumps([corpus.manifest.sources[0].text_bytes, peaks["self"], max(others, default=0)]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_twentyfold_input_has_the_same_peak(tmp_path: Path, workers: int) -> None:
    block = "\n\n".join(sentence(number) for number in range(3000))
    script = tmp_path / "measured.py"
    script.write_text(MEASURED)
    measured = []
    for name, copies in (("small.txt", 2), ("large.txt", 40)):
        with (tmp_path / name).open("w") as file:
            for copy in range(copies):
                file.write(block.replace(" the ", f" the{copy} ") + "\n\n")
        arguments = [str(Path(prepare_by_hand.__file__).parent), str(tmp_path), name, str(workers)]
        output = subprocess.run([sys.executable, str(script), *arguments], check=True, capture_output=True, text=True)
        text_bytes, parent, worker = json.loads(output.stdout)
        assert text_bytes == pytest.approx(copies * len(block), rel=0.1)
        assert (worker > 0) == (workers > 1)
        measured.append((parent, worker))
    (small_parent, small_worker), (large_parent, large_worker) = measured
    assert large_parent <= 1.2 * small_parent
    assert large_worker <= 1.2 * small_worker

"""One thread per test process: test inputs are so small that more threads only wait for each other."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

"""One thread per test process: test inputs are so small that more threads only wait for each other.

On the CPU, also where there is a GPU: the suite compares bits, and tensors of its own with the model's.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

from hypothesis import settings

settings.register_profile("suite", deadline=None, derandomize=True)  # machines are shared; a test times nothing
settings.load_profile("suite")

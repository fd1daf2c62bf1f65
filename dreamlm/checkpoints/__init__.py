"""Snapshots of a run: a crash at any moment leaves a verified one; read back exactly, inspected, converted.

store      commit, find, rotate, prune: the only writer of RUN/checkpoints
snapshot   tensors and JSON to and from one folder (the module that imports torch)
inspect    list, describe, verify, diff, without torch
convert    to a stock transformers folder, and to and from one legacy .pth file
"""

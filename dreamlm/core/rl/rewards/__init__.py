"""Measured rewards: what an answer is worth, by formulas that a test can check.

faithfulness.py, coherence.py, correctness.py, creativity.py: one figure per answer each -> mix.py: one reward.
"""

"""Fixtures of this folder."""

from corpora_by_hand import make_corpus

__all__ = ["make_corpus"]

"""Mixture of experts: a gate chooses, a dispatch brings each item to its experts and back.

Shape legend: N items, K chosen experts, E experts, D width, S slots (N * K).
"""

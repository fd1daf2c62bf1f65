"""Snapshots in the formats of others: a stock transformers folder, and one legacy .pth file."""

"""The trunk: norms, positions, attention, feed-forward and the decoder made of them.

Shape legend: B rows, T tokens of a segment, P past tokens, D width, H heads, G key/value heads, K width of a head,
F width of the feed-forward, V vocabulary.
"""

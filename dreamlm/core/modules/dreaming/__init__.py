"""Dreaming: what each segment makes its document imagine, and the vectors that later segments read of it.

    roles       the segment becomes three vectors: what there is, what is done, what comes of it
    generator   experts unfold them into dreams, each a few steps of such triplets
    edges       steps lead to the next step, and to the same step of other dreams
    reasoner    messages go along the edges, and nodes remember what they were told
    readers     how tokens use what the nodes know in the end

Shapes, everywhere here: B rows, R rows that write, T tokens, S tokens of a segment, D width of the decoder, C width of
dreams, N dreams, L steps of a dream, 3 roles, E experts, K chosen ones, G = N * L nodes, those of a dream behind one
another, X edges, Y types of edges, H heads, K width of a head.
"""

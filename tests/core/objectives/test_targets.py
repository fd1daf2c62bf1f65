"""What is read and predicted of rows with padding and several documents."""

import torch

from dreamlm.core.objectives.targets import documents_read, targets_of


def test_neither_padding_nor_what_is_behind_it_is_predicted() -> None:
    tokens = torch.tensor([[9, 9, 4, 5, 6, 9]])
    documents = torch.tensor([[-1, -1, 0, 0, 1, -1]])
    assert targets_of(tokens, documents).tolist() == [[-1, -1, 5, 6, -1]]


def test_the_last_token_of_a_row_is_not_read_whatever_stands_behind_it() -> None:
    rows = [[0, 0, 1, 1], [0, 0, 1, -1], [-1, 0, -1, 1], [0, -1, -1, -1], [-1] * 4]
    read = [[0, 0, 1], [0, 0, -1], [-1, 0, -1], [-1] * 3, [-1] * 3]
    assert documents_read(torch.tensor(rows)).tolist() == read

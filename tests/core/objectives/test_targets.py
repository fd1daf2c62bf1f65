"""What is predicted of rows with padding and several documents."""

import torch

from dreamlm.core.objectives.targets import targets_of


def test_neither_padding_nor_what_is_behind_it_is_predicted() -> None:
    tokens = torch.tensor([[9, 9, 4, 5, 6, 9]])
    documents = torch.tensor([[-1, -1, 0, 0, 1, -1]])
    assert targets_of(tokens, documents).tolist() == [[-1, -1, 5, 6, -1]]

"""Heads that stand beside a decoder, each behind an objective that needs nothing but windows of tokens."""

from collections.abc import Mapping

import numpy as np
import torch
from contract_subject import VOCAB, Subject
from torch import Tensor, nn
from torch.nn import functional as F

from dreamlm.core.heads.choice import ChoiceHead, Support
from dreamlm.core.heads.reward import RewardHeads
from dreamlm.core.heads.value import ValueHead
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.objectives.causal import CausalObjective
from dreamlm.core.objectives.objective import Losses
from dreamlm.core.objectives.preference import preference_nll


class Choosing(nn.Module):
    """The next token's log-probability on a support that leaves out one other token, and the entropy there."""

    def __init__(self, model: DreamLM, label_smoothing: float) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens_BX: Tensor, documents_BX: Tensor, boundaries: bool) -> Losses:
        carry = self.model.start(len(tokens_BX), records=False)
        signal = self.model(tokens_BX[:, :-1], documents_BX[:, :-1], carry, boundaries)
        real_BT = (documents_BX[:, 1:] >= 0) & (documents_BX[:, :-1] >= 0)
        chosen_N = tokens_BX[:, 1:][real_BT]
        support_NV = torch.arange(VOCAB) != (chosen_N[:, None] + 1) % VOCAB
        packed_NW = torch.from_numpy(np.packbits(support_NV.numpy(), axis=1))
        head: nn.Module = self.model.own_head
        on_support_N, whole_N, entropy_N = head(signal.hidden[real_BT], chosen_N, Support(packed_NW=packed_NW))
        loss = -(on_support_N + whole_N).sum() / 2 - 0.1 * entropy_N.sum()
        return Losses({"token": loss}, -whole_N.detach().sum(), real_BT.sum())


class Valuing(CausalObjective):
    """The next token's cross-entropy, and a value head that expects its number."""

    def forward(self, tokens_BX: Tensor, documents_BX: Tensor, boundaries: bool) -> Losses:
        losses = super().forward(tokens_BX, documents_BX, boundaries)
        carry = self.model.start(len(tokens_BX), records=False)
        signal = self.model(tokens_BX[:, :-1], documents_BX[:, :-1], carry, boundaries)
        real_BT = (documents_BX[:, 1:] >= 0) & (documents_BX[:, :-1] >= 0)
        head: nn.Module = self.model.own_head
        error_N = head(signal.hidden[real_BT]) - tokens_BX[:, 1:][real_BT] / VOCAB
        token = losses.objectives["token"] + error_N.square().sum()
        return Losses({"token": token}, losses.nll, losses.tokens)


class Judging(CausalObjective):
    """The next token's cross-entropy, and heads that prefer, of two real tokens beside each other, the one with the
    larger next token: the score as a whole, and each of its components.
    """

    def forward(self, tokens_BX: Tensor, documents_BX: Tensor, boundaries: bool) -> Losses:
        losses = super().forward(tokens_BX, documents_BX, boundaries)
        carry = self.model.start(len(tokens_BX), records=False)
        signal = self.model(tokens_BX[:, :-1], documents_BX[:, :-1], carry, boundaries)
        real_BT = (documents_BX[:, 1:] >= 0) & (documents_BX[:, :-1] >= 0)
        head: nn.Module = self.model.own_head
        component_NC, score_N, confidence_N, _ = head(signal.hidden[real_BT])
        sign_P = tokens_BX[:, 1:][real_BT].diff().sign()
        nll_P = preference_nll(sign_P * score_N.diff(), (confidence_N[1:] * confidence_N[:-1]).sqrt())
        ranking_PC = F.softplus(-sign_P[:, None] * component_NC.diff(dim=0))
        token = losses.objectives["token"] + nll_P.sum() + ranking_PC.sum()
        return Losses({"token": token}, losses.nll, losses.tokens)


def head_subjects(plain: DreamLM.Config) -> Mapping[str, Subject]:
    return {
        "choice head": Subject(plain, objective=Choosing, head=lambda model: ChoiceHead(model.head, 1.5, (), end=0)),
        "reward heads": Subject(plain, objective=Judging, head=lambda model: RewardHeads(model.config.hidden_size)),
        "value head": Subject(plain, objective=Valuing, head=lambda model: ValueHead(model.config.hidden_size)),
    }

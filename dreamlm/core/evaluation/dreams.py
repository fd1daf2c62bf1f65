"""Dreams of held-out documents: what they are like, who dreams them, and what they are worth to the text that reads.

documents -> dream_reading.py: what each text dreams
          -> ablation.py: its loss with other dreams than its own
          -> dream_metrics.py: a figure with its interval each, and differences of losses with theirs -> section.py

Texts are documents from their own beginning, cut into windows where they are longer. Figures are the same for any
number of rows at once: a text's dreams and donors depend on nothing that lies beside it.

Shapes: U texts, N dreams of a segment, E experts.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from math import comb, log2
from typing import Any, final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from dreamlm.core.config import ConfigModel
from dreamlm.core.evaluation import dream_metrics as metrics
from dreamlm.core.evaluation.ablation import TextLosses, compared
from dreamlm.core.evaluation.bootstrap import Resampling
from dreamlm.core.evaluation.dream_interventions import OwnDreams
from dreamlm.core.evaluation.dream_reading import HeldOutDreams
from dreamlm.core.evaluation.estimates import OfTheSet, PerText, mean_figure, set_figure, units_of
from dreamlm.core.evaluation.section import Figure, Section
from dreamlm.core.evaluation.trajectory import Values, cosines
from dreamlm.core.modules.dreaming.edges import edge_type_names
from dreamlm.core.rng import derive_seed
from dreamlm.core.roles import ROLES


@final
class Dreams:
    """Measures dreams, always in the same way."""

    class Config(ConfigModel):
        groups: int = Field(32, ge=5)
        """Most groups of documents that the jackknife leaves out in turn."""

        def build(self, resampling: Resampling) -> "Dreams":
            return Dreams(self, resampling)

    def __init__(self, config: Config, resampling: Resampling) -> None:
        self.config, self.resampling = config, resampling

    def measure(
        self,
        found: HeldOutDreams,
        losses: Mapping[str, TextLosses],
        notes: Sequence[str] = (),
        details: Mapping[str, Any] | None = None,
    ) -> Section:
        """The figures of the dreams, and behind them what other dreams cost.

        losses: by the name of the intervention, `own` among them.
        notes: what was left out and why.

        What is resampled are documents, each with all its texts; of a single document, its texts. Means have a
        percentile bootstrap, what belongs to the set (the distance between documents, and how choices of experts
        depend on the dream's number) a jackknife. Differences to the text's own dreams are resampled as differences.
        """
        unit_U = units_of(found.owner_U.tolist())
        dreams, experts = found.shape
        documents = len(set(found.owner_U.tolist()))
        return Section(
            key="dreams",
            title="Dreams",
            summary=f"{found.segments:,} segments of {dreams:,} dreams each, in {len(found.texts):,} texts of "
            f"{documents:,} documents",
            figures=(
                *(mean_figure(one, unit_U, self.resampling) for one in _loads(found)),
                *(self._of_the_set(one, unit_U) for one in self._routing(found)),
                self._of_the_set(_between_documents(found), unit_U),
                *(mean_figure(one, unit_U, self.resampling) for one in _of_dreams(found)),
                *(
                    mean_figure(one, unit_U, self.resampling)
                    for one in compared(losses, OwnDreams.name, "dreams", "dreams")
                ),
            ),
            confidence=self.resampling.confidence,
            notes=tuple(notes),
            details={
                "texts": len(found.texts),
                "documents": documents,
                "segments": found.segments,
                "dreams": dreams,
                "experts": experts,
                **(details or {}),
            },
        )

    def _of_the_set(self, one: OfTheSet, unit_U: npt.NDArray[np.int64]) -> Figure:
        return set_figure(one, unit_U, self.config.groups, self.resampling)

    def _routing(self, found: HeldOutDreams) -> Iterator[OfTheSet]:
        """How far the dream's number, and how far the text, decides who dreams: by first experts, and by whole sets."""
        dreams, experts = found.shape
        gates = [text.gate_KNE for text in found.texts]
        chosen = metrics.most_chosen(gates)
        for what, category_KN, possible in (
            ("first expert", [metrics.first_experts(gate_KNE) for gate_KNE in gates], experts),
            ("expert set", metrics.expert_sets(gates), comb(experts, chosen)),
        ):
            routing = metrics.Routing(category_KN)
            most = log2(min(dreams, possible))
            chance = routing.by_chance(derive_seed(self.resampling.seed, "shuffled dreams", what))
            unit = f"bits the number tells, of {most:.2f}; by chance {chance:.4f}"
            yield OfTheSet(f"mutual information, {what}; dream", unit, routing.mutual_information, most, is_share=False)
            most = log2(possible)
            unit = f"bits the text tells, of {most:.2f}"
            name = f"conditional entropy, {what} | dream"
            yield OfTheSet(name, unit, routing.conditional_entropy, most, is_share=False)


def _loads(found: HeldOutDreams) -> Iterator[PerText]:
    dreams, experts = found.shape
    gates = [text.gate_KNE for text in found.texts]
    load_UNE = np.stack([metrics.load(gate_KNE) for gate_KNE in gates])
    unit = f"share of the dream's choices, {metrics.most_chosen(gates)} a segment"
    for dream in range(dreams):
        chosen_U = load_UNE[:, dream].sum(axis=1).tolist()
        for expert in range(experts):
            name = f"load, dream {dream + 1}, expert {expert + 1}"
            yield PerText(name, unit, load_UNE[:, dream, expert].tolist(), chosen_U)


def _between_documents(found: HeldOutDreams) -> OfTheSet:
    between = metrics.SameDream([text.dreams_KNV for text in found.texts], found.owner_U)
    return OfTheSet("distance, other documents", "1 - cosine of the same dream", between, most=2.0, is_share=False)


def _of_dreams(found: HeldOutDreams) -> Iterator[PerText]:
    inside = [metrics.distances(text.dreams_KNV) for text in found.texts]
    yield _mean("distance, same segment", "1 - cosine of two dreams of a segment", inside)
    for one, other in combinations(range(len(ROLES)), 2):
        alike = [cosines(text.roles_K3C[:, one], text.roles_K3C[:, other]) for text in found.texts]
        yield _mean(f"cosine, {ROLES[one]} and {ROLES[other]}", "of two roles of a segment", alike)
    edges_UY = np.array([text.edges_KY.sum(axis=0, dtype=np.float64) for text in found.texts])
    for name, sum_U in zip(edge_type_names(edges_UY.shape[1]), edges_UY.T, strict=True):
        yield PerText(f"edges, {name}", "mean share of the type", sum_U.tolist(), edges_UY.sum(axis=1).tolist())


def _mean(name: str, unit: str, values: Sequence[Values]) -> PerText:
    sums, counts = [float(each.sum()) for each in values], [float(len(each)) for each in values]
    return PerText(name, unit, sums, counts, is_share=False)

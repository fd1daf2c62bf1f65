"""The cognitive modules a preset can switch on: the typed union is the registry, one member per line, sorted.

A module is one file, or one package, here and one line below; the contract tests run over it by themselves.
"""

from typing import Annotated

from pydantic import BeforeValidator, Field

from dreamlm.core.modules.dreaming.dreaming import Dreaming
from dreamlm.core.modules.segment_summary import SegmentSummary
from dreamlm.core.modules.thought_stack import ThoughtStack

ModuleConfigs = Dreaming.Config | SegmentSummary.Config | ThoughtStack.Config


def _by_name(value: object) -> object:
    """ "segment_summary" is {"type": "segment_summary"}; an object must say its type."""
    if isinstance(value, dict) and "type" not in value:
        raise ValueError('a module needs a "type"')
    return {"type": value} if isinstance(value, str) else value


AnyModule = Annotated[ModuleConfigs, Field(discriminator="type"), BeforeValidator(_by_name)]

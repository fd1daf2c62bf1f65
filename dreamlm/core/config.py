"""The one place that says how every configuration behaves: immutable, and an unknown key is an error."""

from pydantic import BaseModel, ConfigDict


class ConfigModel(BaseModel):
    """Parent of every `Config` class; each lives inside the class that it builds."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)


def from_name(value: object) -> object:
    """A bare string stands for the choice of that type: "rope" is {"type": "rope"}."""
    return {"type": value} if isinstance(value, str) else value

"""The one place that says how every configuration behaves: immutable, numbers finite, an unknown key an error."""

from pydantic import BaseModel, BeforeValidator, ConfigDict


class ConfigModel(BaseModel):
    """Parent of every `Config` class; each lives inside the class that it builds."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


def choice(default: str) -> BeforeValidator:
    """For a union told apart by `type`: "rope" is {"type": "rope"}, and an object without a type is the default's."""

    def complete(value: object) -> object:
        if isinstance(value, str):
            return {"type": value}
        return {"type": default, **value} if isinstance(value, dict) else value

    return BeforeValidator(complete)

"""A resolved preset as JSON that means the same, for people to read and for files."""

from typing import Any

from pydantic import BaseModel


def written(config: BaseModel) -> dict[str, Any]:
    """All values of a configuration, but no null that is the key's default: what is left resolves to the same."""
    kept: dict[str, Any] = _without_default_nulls(config, config.model_dump(mode="json"))
    return kept


def _without_default_nulls(value: Any, dumped: Any) -> Any:
    """`dumped`: what pydantic makes of the value."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return {
            name: _without_default_nulls(getattr(value, name), inner)
            for name, inner in dumped.items()
            if inner is not None or fields[name].default is not None
        }
    if isinstance(dumped, list):
        return [_without_default_nulls(*pair) for pair in zip(value, dumped, strict=True)]
    return dumped

"""Templates of the pages."""

from functools import cache
from typing import TYPE_CHECKING, Any

from mist_dagster.instance import addresses

if TYPE_CHECKING:
    from jinja2 import Environment


def page(template: str, **values: Any) -> str:
    """Fill a template; every value is escaped."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(__package__), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.globals["address"] = addresses
    return environment

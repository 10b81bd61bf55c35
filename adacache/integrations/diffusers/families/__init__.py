"""One file for each family of models: a `FAMILY`, and where its facts come from."""

from difflib import get_close_matches
from importlib import import_module
from pkgutil import iter_modules

from adacache.integrations.diffusers.family import Family

_MODULES = [import_module(f"{__name__}.{info.name}") for info in iter_modules(__path__)]
KNOWN: dict[str, Family] = {module.FAMILY.transformer: module.FAMILY for module in _MODULES}


def find_family(transformer: object) -> Family:
    """The family of a transformer, whose class may be derived from a known one.

    Raises: ValueError when it belongs to none.
    """
    names = [cls.__name__ for cls in type(transformer).__mro__]
    found = next((KNOWN[name] for name in names if name in KNOWN), None)
    if found is None:
        close = get_close_matches(names[0], KNOWN, 1)
        raise ValueError(
            f"AdaCache does not know the model {names[0]}; "
            + (f"did you mean {close[0]}? " if close else "")
            + f"known are {', '.join(sorted(KNOWN))}, and docs/diffusers.md says how to add one"
        )
    return found

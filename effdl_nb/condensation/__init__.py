"""Dataset condensation: a few images per class that train networks nearly as well as thousands."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the same names, for editors and type checkers
    from .condensing import condense as condense, make_set as make_set
    from .evaluation import evaluate as evaluate
    from .methods import METHODS as METHODS, defaults as defaults
    from .sets import CondensedSet as CondensedSet

_FACES = {
    "condense": "condensing",
    "make_set": "condensing",
    "evaluate": "evaluation",
    "CondensedSet": "sets",
    "METHODS": "methods",
    "defaults": "methods",
}
__all__ = list(_FACES)


def __getattr__(name: str) -> object:
    "Hand out a face from its module, which is imported only then."
    if name not in _FACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FACES[name]}"), name)


def __dir__() -> list[str]:
    "List the faces beside the modules."
    return sorted({*globals(), *_FACES})

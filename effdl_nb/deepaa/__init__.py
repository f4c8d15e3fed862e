"""Deep AutoAugment: an augmentation policy of several layers, searched by matching gradients."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the same names, for editors and type checkers
    from .finding import search_policy as search_policy
    from .policy_file import load_policy as load_policy, save_policy as save_policy
    from .search import PolicySearch as PolicySearch
    from .search_methods import search_defaults as search_defaults

_FACES = {
    "PolicySearch": "search",
    "search_defaults": "search_methods",
    "search_policy": "finding",
    "load_policy": "policy_file",
    "save_policy": "policy_file",
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

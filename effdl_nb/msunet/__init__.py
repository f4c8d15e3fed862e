"""MSUNet: a compact network of ternary weights, pruned, counted and stored bit by bit."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the same names, for editors and type checkers
    from .consistency import ConsistencyLoss as ConsistencyLoss
    from .conversion import convert_ternary_ as convert_ternary_
    from .deployment import deploy as deploy
    from .exporting import export as export
    from .network import msunet as msunet
    from .packing import save_packed as save_packed, load_packed as load_packed
    from .pruning import MagnitudePruner as MagnitudePruner
    from .score import micronet_score as micronet_score

_FACES = {
    "msunet": "network",
    "convert_ternary_": "conversion",
    "micronet_score": "score",
    "MagnitudePruner": "pruning",
    "ConsistencyLoss": "consistency",
    "deploy": "deployment",
    "save_packed": "packing",
    "load_packed": "packing",
    "export": "exporting",
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

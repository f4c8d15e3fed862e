"""MSUNet: a compact network of ternary weights, pruned, counted and stored bit by bit."""

from importlib import import_module

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


def __getattr__(name: str):
    "Hand out a face from its module, which is imported only then."
    if name not in _FACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FACES[name]}"), name)


def __dir__() -> list[str]:
    "List the faces beside the modules."
    return sorted({*globals(), *_FACES})

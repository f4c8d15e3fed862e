"Settings are checked, merged and built in one way, whatever is asked of them."

import dataclasses
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effdl_nb import settings


@dataclass(frozen=True)
class Inner:
    lr: float = 0.1
    epochs: int = 10
    milestones: tuple[int, ...] = ()

    def __post_init__(self):
        settings.finite(self, "lr")
        settings.at_least(self, 1, "epochs")
        settings.milestones(self)


@dataclass(frozen=True)
class Outer:
    name: str
    kind: str | None = None
    train: Inner = Inner(epochs=200)
    search: Inner | None = None
    notes: dict = field(default_factory=dict)

    def __post_init__(self):
        settings.one_of(self, "kind", ("a", "b"))


# a key holds either a mapping (a, b) or a value (x, y), as fields of settings do
PLAIN = st.dictionaries(st.sampled_from("xy"), st.integers(), max_size=2)
INNER = st.builds(lambda v, m: v | m, PLAIN, st.dictionaries(st.just("a"), PLAIN, max_size=1))
MAPPINGS = st.builds(lambda v, m: v | m, PLAIN, st.dictionaries(st.sampled_from("ab"), INNER))


@given(MAPPINGS, MAPPINGS, MAPPINGS)
def test_merging_is_associative_and_touches_no_layer(a, b, c):
    before = [repr(layer) for layer in (a, b, c)]
    assert settings.merge(settings.merge(a, b), c) == settings.merge(a, b, c)
    assert [repr(layer) for layer in (a, b, c)] == before


@given(MAPPINGS, MAPPINGS)
def test_the_later_layer_wins_everywhere(a, b):
    merged, later = settings.flatten(settings.merge(a, b)), settings.flatten(b)
    assert {path: merged[path] for path in later if later[path] != {}} == {
        path: value for path, value in later.items() if value != {}
    }
    assert settings.merge(a, a) == settings.merge(a)


@given(st.floats(0, 1e6), st.integers(1, 10**6), st.lists(st.integers(0, 100), max_size=3))
def test_a_record_comes_back_from_its_own_mapping(lr, epochs, milestones):
    record = Outer("x", train=Inner(lr, epochs, tuple(milestones)), search=Inner())
    content = dataclasses.asdict(record)
    assert settings.from_mapping(Outer, "here", content) == record
    # as JSON or YAML would hold it
    content["train"]["milestones"] = list(content["train"]["milestones"])
    assert settings.from_mapping(Outer, "here", content) == record


@pytest.mark.parametrize(
    "content, words",
    [
        ({}, "here: name missing"),
        ({"name": "x", "nam": 1}, "here: 'nam' is unknown; allowed: name, kind, train"),
        ({"name": "x", "train": {"lrs": 1}}, "here: train: 'lrs' is unknown; allowed: lr, epochs"),
        ({"name": "x", "train": {"lr": float("inf")}}, "here: train: lr must be a finite number"),
        ({"name": "x", "train": {"epochs": 0}}, "here: train: epochs must be at least 1, not 0"),
        ({"name": "x", "search": {"lr": "1e-3"}}, "search: lr must be a finite number from 0"),
        ({"name": "x", "train": {"milestones": [5, -1]}}, "whole numbers from 0, not -1"),
        ({"name": "x", "kind": "c"}, "here: kind 'c' is unknown; allowed: a, b"),
        ([], "here must be a mapping, not \\[\\]"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(content, words):
    with pytest.raises(ValueError, match=words):
        settings.from_mapping(Outer, "here", content)


@pytest.mark.parametrize("value", [True, "3", float("nan"), -1, [1]])
def test_what_is_no_number_from_the_bound_fails(value):
    for check in (lambda c: settings.at_least(c, 0, "lr"), lambda c: settings.finite(c, "lr")):
        config = object.__new__(Inner)
        object.__setattr__(config, "lr", value)
        with pytest.raises(ValueError, match="lr must be"):
            check(config)


def test_none_passes_only_where_it_is_the_default():
    assert Outer("x", kind=None).kind is None
    with pytest.raises(ValueError, match="epochs must be at least 1, not None"):
        Inner(epochs=None)


def test_clearing_gives_the_default_again():
    low = {"name": "x", "train": {"lr": 0.5}, "notes": {"a": 1}}
    made = settings.from_mapping(Outer, "", settings.merge(low, {"train": None, "notes": None}))
    assert made == Outer("x")
    layers = [
        ("default", settings.defaults_of(Outer)),
        ("yaml: row", low),
        ("yaml: top", {"train": None}),
    ]
    told = settings.trace(made, "train.lr", layers)
    assert "0.5   yaml: row.train.lr" in told and told.endswith(
        "> 0.1   default again, since it was cleared"
    )


def test_an_unknown_setting_cannot_be_traced():
    with pytest.raises(ValueError, match="setting 'lrr' is unknown; allowed: name, kind, train.lr"):
        settings.trace(Outer("x"), "lrr", [])


def test_whole_numbers_name_the_value_that_is_none_and_the_least_one():
    @dataclass
    class Counted:
        things: int | None = None

    for value in (1, 3, None):
        settings.whole_numbers(Counted(value), 1, "things")
    for value, words in ((1.5, "things must be a whole number, not 1.5"), (0, "at least 1, not 0")):
        with pytest.raises(ValueError, match=words):
            settings.whole_numbers(Counted(value), 1, "things")

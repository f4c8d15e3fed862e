"""The thirteen methods as settings: names, options, defaults and their sources."""

import dataclasses
import inspect

import pytest

from effdl_nb.condensation.condensing import condense
from effdl_nb.condensation.learning import Run
from effdl_nb.condensation.methods import (
    METHODS,
    PRESETS,
    configure,
    defaults,
    load_named,
    method_named,
    setting_layers,
)
from effdl_nb.condensation.real import RealImages
from effdl_nb.condensation.trajectory import TABLE_4_3, IATMConfig, MTTConfig, table_4_3

ROWS = (
    "random",
    "herding",
    "forgetting",
    "dd",
    "ld",
    "dc",
    "dsa",
    "dm",
    "cafe",
    "cafe_dsa",
    "mtt",
    "iatm",
)


def test_the_methods_are_the_rows_of_the_table_and_kip():
    assert set(METHODS) == {*ROWS, "kip"}
    assert len({method.title for method in METHODS.values()}) == len(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_names_its_settings_and_they_name_their_maker(method):
    kind = load_named(METHODS[method].config)
    assert dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen
    signature = inspect.signature(load_named(kind.maker)).parameters
    assert [p.annotation for p in signature.values()][::2] == [RealImages, Run]
    assert isinstance(configure(method), kind) and configure(method).ipc == 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("preset", PRESETS)
def test_defaults_are_options_that_the_method_takes(method, preset):
    known = defaults(method, 10, preset=preset)
    config = configure(method, 10, preset=preset)
    assert configure(method, 10, preset=preset, options=known) == config
    assert set(METHODS[method].small) <= set(known), "the preset changes options, it adds none"
    job = {"method", "ipc", "network", "seed"}
    assert set(known) == {f.name for f in dataclasses.fields(config)} - job
    for other in {k for m in METHODS for k in defaults(m)} - set(known):
        with pytest.raises(ValueError, match=f"{method} has no option '{other}'; allowed: "):
            configure(method, options={other: 1})


@pytest.mark.parametrize("method", METHODS)
def test_the_small_preset_is_what_it_says(method):
    small, paper = (defaults(method, preset=preset) for preset in ("small", "paper"))
    for name, value in METHODS[method].small.items():
        seen = {k: small[name][k] for k in value} if isinstance(value, dict) else small[name]
        assert seen == value, name
    assert {k: v for k, v in small.items() if k not in METHODS[method].small} == {
        k: v for k, v in paper.items() if k not in METHODS[method].small
    }


def test_options_do_not_shadow_arguments():
    arguments = set(inspect.signature(condense).parameters)
    assert not arguments & {k for m in METHODS for k in defaults(m)}
    assert set(defaults("iatm")) - set(defaults("mtt")) == {
        "reading",
        "opening",
        "horizon",
        "statistics_images",
    }


@pytest.mark.parametrize(("dataset", "ipc"), TABLE_4_3)
def test_the_schedule_follows_the_data_set_and_gives_way_to_options(dataset, ipc):
    config = configure("iatm", ipc, dataset=dataset)
    assert {k: getattr(config, k) for k in table_4_3(dataset, ipc)} == table_4_3(dataset, ipc)
    told = configure("iatm", ipc, dataset=dataset, options={"student_steps": 7})
    assert told == dataclasses.replace(config, student_steps=7)
    small = configure("iatm", ipc, dataset=dataset, preset="small")
    assert small.student_steps == METHODS["iatm"].small["student_steps"]
    assert small.interval == config.interval  # what the preset does not name


def test_nested_options_change_what_they_name():
    paper = configure("mtt").experts
    config = configure("mtt", options={"experts": {"count": 2, "lr": 0.5}})
    assert config.experts == dataclasses.replace(paper, count=2, lr=0.5)
    small = configure("mtt", preset="small", options={"experts": {"count": 2}}).experts
    assert (small.count, small.epochs, small.half) == (2, 4, False)


def test_the_job_is_no_option_and_reaches_the_settings():
    config = configure("dsa", 3, "convnet-2", 7)
    assert (config.method, config.ipc, config.network, config.seed) == ("dsa", 3, "convnet-2", 7)
    assert configure("random", 3, "convnet-2", 7) == load_named(METHODS["random"].config)(3, 7)
    assert isinstance(configure("iatm"), IATMConfig) and type(configure("mtt")) is MTTConfig
    for name in ("method", "ipc", "network", "seed", "maker"):
        with pytest.raises(ValueError, match=f"dsa has no option '{name}'"):
            configure("dsa", options={name: 1})


def test_published_values_are_filled_in():
    config = configure("cafe_dsa", 10)
    assert (config.iterations, config.outer_steps, config.inner_epochs) == (2000, 10, 50)
    assert (config.init, config.milestones) == ("real", (1200, 1400, 1800))
    assert (configure("dc", 10).outer_steps, configure("dc", 10).inner_epochs) == (10, 50)
    assert (configure("ld").reset_every, configure("ld").inner_lr) == (50, 0.01)


def test_layers_name_their_sources_and_the_last_wins():
    layers = setting_layers("iatm", 10, "cifar100", "small")
    sources = [source for source, _ in layers]
    assert sources == [
        "default of IATMConfig",
        "Table 4.3 for cifar100 at 10 per class, or its nearest column",
        "preset small of IATM",
    ]
    merged = {k: v for _, mapping in layers for k, v in mapping.items() if k != "experts"}
    known = defaults("iatm", 10, "cifar100", "small")
    assert {k: known[k] for k in merged} == merged
    assert [source for source, _ in setting_layers("dm")] == [
        "default of MatchingConfig",
        "published: Zhao and Bilen 2023",
    ]


@pytest.mark.parametrize(
    "wrong",
    [{"image_lr": float("nan")}, {"lr_lr": float("inf")}, {"image_lr": -1.0}, {"lr_lr": -1e-3}],
)
def test_learning_rates_that_are_none(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be a finite number"):
        configure("mtt", options=wrong)


@pytest.mark.parametrize(
    ("method", "wrong"),
    [
        ("herding", {"epochs": 0}),
        ("forgetting", {"epochs": -1}),
        ("herding", {"lr": float("nan")}),
        ("kip", {"image_lr": float("nan")}),
        ("kip", {"image_lr": -1.0}),
    ],
)
def test_numbers_out_of_range(method, wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
        configure(method, options=wrong)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"student_lr": "fast"}, "student_lr is 'fast'; allowed: a number, such as 0.01"),
        ({"student_steps": 2.5}, "student_steps is 2.5; allowed: a whole number"),
        ({"student_steps": True}, "student_steps is True; allowed: a whole number"),
        ({"compiled": 1}, "compiled is 1; allowed: true or false"),
        ({"memory": 7}, "memory is 7; allowed: a word"),
        ({"experts": "many"}, "experts.count is 'many'; allowed: a whole number"),
        ({"experts": True}, "experts.count is True; allowed: a whole number"),
        ({"experts": None}, "experts is None; allowed: a mapping"),
        ({"experts": {"size": 3}}, "no option 'experts.size'; allowed: batch_size, count"),
        ({"experts": {"count": "many"}}, "experts.count is 'many'; allowed: a whole number"),
        ({"experts": {"count": 0}}, "count must be at least 1, not 0"),
        ({"experts": {"lr": float("inf")}}, "experts.lr must be a finite number, not inf"),
    ],
)
def test_options_of_the_wrong_kind(options, words):
    with pytest.raises(ValueError, match=words):
        configure("iatm", options=options)


def test_unknown_names():
    with pytest.raises(ValueError, match="method 'pad' is unknown; allowed: random, herding"):
        method_named("pad")
    with pytest.raises(ValueError, match="method 'pad' is unknown; allowed: random, herding"):
        configure("pad")
    with pytest.raises(ValueError, match="preset 'tiny' is unknown; allowed: paper, small"):
        defaults("dm", preset="tiny")
    with pytest.raises(ValueError, match="ipc must be a whole number from 1, not '10'"):
        defaults("dm", "10")
    with pytest.raises(ValueError, match="random has no option 'width'; allowed: none"):
        configure("random", options={"width": 4})


def test_none_takes_back_what_a_preset_says():
    small = {"preset": "small"}
    assert configure("dm", **small).width == 32
    assert configure("dm", **small, options={"width": None}).width is None
    assert configure("dm", **small, options={"iterations": None}).iterations == 20000  # the paper's
    with pytest.raises(ValueError, match="batch_real is None; allowed: a whole number"):
        configure("dm", **small, options={"batch_real": None})


def test_the_first_field_stands_for_a_nested_record():
    short, long = ({"experts": v} for v in (7, {"count": 7}))
    assert configure("mtt", options=short) == configure("mtt", options=long)


@pytest.mark.parametrize("name", ["wrn-10-1", "shake-shake-26-2x8d"])
@pytest.mark.parametrize("method", ["dm", "mtt", "herding", "dd"])
def test_a_network_without_a_width_takes_none_from_a_preset(method, name):
    assert configure(method, network=name, preset="small").width is None


def test_numbers_that_no_tensor_can_hold():
    for wrong in (1e39, 10**40):
        with pytest.raises(ValueError, match=r"image_lr must be at most 3.403e\+38"):
            configure("dm", options={"image_lr": wrong})

"""Lists of runs: their order, what they take from the profiles, and what is refused."""

from dataclasses import replace

import pytest

from unrolling._checks import InputError
from unrolling.runs import load_profile
from unrolling.runs.lists import LISTS, load_list

WRITTEN = """
description: two grids
profile: quick
runs:
  - {experiment: training_with_sd_loss, part: strength, seeds: [1, 0], where: {gamma: [2.0, 0]}}
  - {experiment: training_with_sd_loss, part: strength, seeds: [0]}
"""


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "list.yml"
        path.write_text(text)
        return str(path)

    return write


def test_runs_come_in_the_order_of_the_list_and_each_once(written):
    configs = load_list(written(WRITTEN)).configs()
    assert [(c.seed, c.gamma) for c in configs[:4]] == [(1, 2.0), (1, 0.0), (0, 2.0), (0, 0.0)]
    grid = load_profile("quick").experiment("training_with_sd_loss").configs("strength", num_seeds=1)
    assert configs[4:] == [config for config in grid if config.gamma not in (0.0, 2.0)]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("quick", "quik", "unknown profile 'quik'"),
        ("part: strength,", "part: strengths,", "unknown part 'strengths'"),
        ("experiment: training_with_sd_loss", "experiment: training", "unknown experiment 'training'"),
        ("seeds: [1, 0]", "seeds: []", "must name a seed"),
        ("seeds: [1, 0]", "seeds: [-1]", "a seed of a list must be"),
        ("seeds: [1, 0]", "seed: [0]", "unknown part of a run of the list .* 'seed'"),
        ("[2.0, 0]", "[2.5e3, 0]", r"gamma of a list must be some of \[0.0"),
        ("[2.0, 0]", "2.0", "gamma of a list must be some of"),
        ("gamma: [2.0, 0]", "gama: [2.0]", "gama of a list must be some of"),
        ("description: two grids", "", "'description' of the list .* must be a str"),
        ("runs:", "runs: [5]\nmore:", "unknown part of the list"),
        ("description: two grids", "description: {", "is no YAML"),
    ],
)
def test_a_list_that_is_not_as_it_must_be_is_refused_in_words(written, old, new, message):
    assert old in WRITTEN
    with pytest.raises(InputError, match=message):
        load_list(written(WRITTEN.replace(old, new))).configs()


def test_unknown_lists_and_files_that_are_not_there_are_refused():
    with pytest.raises(InputError, match=r"unknown list of runs 'narow': .*narrow"):
        load_list("narow")
    with pytest.raises(InputError, match=r"cannot read the list of runs 'nowhere.yml'"):
        load_list("nowhere.yml")


@pytest.mark.parametrize("name", LISTS)
def test_the_lists_of_the_package_are_made_of_runs_of_their_profile(name):
    listed = load_list(name)
    configs = listed.configs()
    assert len(configs) == len(set(configs)) > 50
    grids = {c for e in load_profile(listed.profile).experiments.values() for c in e.configs(e.parts)}
    assert set(configs) <= grids


def test_the_core_list_is_the_same_on_jpeg_images():
    core = load_list("core")
    first, second = core.configs(), core.configs("paper-jpeg")
    assert {config.dataset for config in first} == {"cifar10"}
    assert second == [replace(config, dataset="cifar10-jpeg") for config in first]


def test_what_is_left_out_is_left_out(written):
    text = WRITTEN.replace("seeds: [0]}", "seeds: [0], without: {gamma: [2.0, 5.0], model: [vgg-small]}}")
    assert {c.gamma for c in load_list(written(text)).configs()[4:]} == {0.5, 1.0, 1.5, 2.5}

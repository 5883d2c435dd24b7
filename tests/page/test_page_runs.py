"""The runs of a page: with its parameters, where these say, and told of in the log but not on the page."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook

from unrolling._checks import InputError
from unrolling.page import obtain_for_page, run_settings
from unrolling.page import runs as runs_module
from unrolling.page.allowed import check_page, page_parameters
from unrolling.runs import PROFILES, RunConfig, load_profile, notebook_parameters
from workflow.build_book import profile_parameters

ROOT = Path(__file__).resolve().parents[2]
CODE = {
    path.stem: "\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code")
    for path in (ROOT / "notebooks").glob("*.ipynb")
}
OBTAINING = sorted(page for page, code in CODE.items() if "obtain_for_page(" in code)
WHERE_AND_HOW = ("device", "dtype", "products")
TINY = {
    "dataset": "digits",
    "train_size": 48,
    "test_size": 20,
    "model": "mlp",
    "batch_size": 16,
    "pretrain_epochs": 0,
    "sigma_every": 3,
    "sigma_rtol": 0.5,
    "record_every": 0,
    "dtype": "float32",
}
CONFIGS = [RunConfig(**TINY, gamma=gamma) for gamma in (0, 0.5)]


def test_every_page_that_obtains_runs_can_be_told_where_and_how():
    assert len(OBTAINING) == 11
    assert not [page for page, code in CODE.items() if re.search(r"\bobtain\(|\bjobs=", code)]
    for profile in PROFILES:
        asked = notebook_parameters(profile)
        assert [page for page in sorted(CODE) if set(WHERE_AND_HOW) <= set(asked[page])] == OBTAINING
        assert {asked[page]["device"] for page in OBTAINING} == {"auto"}
        assert {asked[page]["products"] for page in OBTAINING} == {"ieee"}
    # what a page passes on, it passes on every time
    for page in OBTAINING:
        calls = CODE[page].count("obtain_for_page(")
        assert len(re.findall(r", device\s*\)", CODE[page])) == calls


def test_the_parameters_of_a_page_reach_every_run_and_where_it_is_computed_does_not():
    given = {"device": "cuda:1", "dtype": "float32", "products": "tf32"}
    for profile in PROFILES:
        for name, experiment in load_profile(profile).experiments.items():
            page = experiment.parameters | given
            for part in experiment.parts:
                plain = experiment.configs(part)
                configs = experiment.configs(part, **run_settings(experiment, page | {"other": 1}))
                assert len(configs) == len(plain)
                if (profile, name, part) == ("small", "text", "images"):
                    assert configs == plain  # the runs of another experiment
                else:
                    assert {(c.dtype, c.products) for c in configs} <= {("float32", "tf32")}
                assert experiment.configs(part, device="cuda:1") == plain


@pytest.mark.parametrize(
    ("profile", "number"),
    [("quick", 567), ("small", 1934), ("paper", 3832), ("paper-jpeg", 2222), ("narrow", 1054)],
)
def test_the_profiles_have_as_many_runs_as_ever(profile, number):
    experiments = load_profile(profile).experiments.values()
    configs = {config for e in experiments for config in e.configs(e.parts)}
    assert len(configs) == number
    assert {config.products for config in configs} == {"ieee"}
    assert not any("products" in config.to_dict() or "device" in config.to_dict() for config in configs)


@pytest.mark.parametrize("page", OBTAINING)
def test_a_page_stops_before_it_computes_where_it_was_told_what_there_is_not(page, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for profile in PROFILES:
        check_page(page, notebook_parameters(profile)[page] | {"dtype": "float32", "products": "tf32"})
    for changes, message in (
        ({"device": "cuda"}, "device 'cuda' asked for, but PyTorch sees no CUDA device here"),
        ({"device": "gpu"}, "unknown device 'gpu': expected auto, cpu, cuda or cuda:N"),
        ({"device": 0}, r"device must be text such as 'auto', got 0 \(int\)"),
        ({"dtype": "float16"}, "unknown dtype 'float16': expected one of float32, float64"),
        ({"products": "tf32"}, "products 'tf32' are those of dtype float32, got dtype float64"),
    ):
        with pytest.raises(InputError, match=rf"^{message}[^\n]*$"):
            check_page(page, page_parameters(page) | changes)


@pytest.mark.parametrize(
    ("device", "dtypes", "jobs"),
    [
        ("auto", ["float64"], 2),
        ("auto", ["float32"], 1),
        ("auto", ["float32", "float64"], 1),
        ("cpu", ["float32"], 2),
        ("cuda:1", ["float64"], 1),
        ("auto", [], 1),
    ],
)
def test_one_process_has_the_card(device, dtypes, jobs, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "empty", lambda *size, device: None)  # there is no card to allocate on
    asked = {}
    monkeypatch.setattr(runs_module, "obtain", lambda configs, **options: asked.update(options))
    obtain_for_page([RunConfig(dtype=dtype) for dtype in dtypes], device)
    assert (asked["device"], asked["jobs"]) == (device, jobs)


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_is_computed_is_told_on_stderr_and_what_is_stored_is_not(jobs, monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("UNROLLING_STORE", str(tmp_path))
    monkeypatch.setitem(runs_module._AT_ONCE, "cpu", jobs)
    (stored,) = obtain_for_page(CONFIGS[:1], "cpu")
    capfd.readouterr()
    more = [*CONFIGS, *(RunConfig(**TINY, seed=seed) for seed in (1, 2))]
    records = obtain_for_page(more, "cpu")
    assert records[0] == stored
    said, out = capfd.readouterr().err.strip().splitlines(), capfd.readouterr().out
    names = [f"digits mlp gamma={gamma} N=0 seed={seed}" for gamma, seed in (("0.5", 0), ("0", 1), ("0", 2))]
    assert re.fullmatch(r"3 of 4 runs to compute on CPU \(.*\) in float32; running: (.*)", said[0])
    assert said[0].endswith(f"running: {', '.join(names[:jobs])}")
    done = [re.fullmatch(r"\[(\d)/3\] (.*): e=\S+ v=\S+ in \S+ s(; running: .*)?", line) for line in said[1:]]
    assert [line[1] for line in done] == ["1", "2", "3"]
    assert sorted(line[2] for line in done) == sorted(names)
    running = [set(line[3].removeprefix("; running: ").split(", ")) if line[3] else set() for line in done]
    finished = [{line[2] for line in done[: i + 1]} for i in range(3)]
    assert all(now == set(names) - before for now, before in zip(running[1:], finished[1:], strict=True))
    assert not running[0] & finished[0]
    assert len(running[0]) == jobs
    assert out == ""
    assert obtain_for_page(more, "cpu") == records
    assert capfd.readouterr() == ("", "")


def test_papermill_has_a_line_for_every_run_and_the_page_has_none(tmp_path):
    source = [
        "from unrolling.runs import RunConfig\nfrom unrolling.page import obtain_for_page, run_card",
        f"configs = [RunConfig(**{TINY}, gamma=gamma) for gamma in (0, 0.5)]\n"
        'runs = obtain_for_page(configs, "cpu")',
        'run_card(profile="quick", runs=runs)',
    ]
    nbformat.write(new_notebook(cells=[new_code_cell(cell) for cell in source]), tmp_path / "page.ipynb")
    environment = os.environ | {"UNROLLING_STORE": str(tmp_path / "runs")}
    environment.pop("PYTEST_CURRENT_TEST", None)  # a kernel that sees it does not watch its streams
    command = [sys.executable, "-m", "papermill", "--log-output", "--kernel", "python3"]
    command += [str(tmp_path / "page.ipynb"), str(tmp_path / "out.ipynb")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    said = [line.strip() for line in done.stderr.splitlines()]
    for place in (1, 2):
        assert [line for line in said if line.startswith(f"[{place}/2] digits mlp gamma=")]
    assert "2 of 2 runs to compute on CPU" in done.stderr
    _, obtained, card = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells
    assert obtained.outputs == []
    rows = dict(re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td>', card.outputs[0]["data"]["text/html"]))
    assert rows["Runs"].startswith("2 (2 computed for this page")
    assert rows["Device"].startswith("CPU (")
    assert (rows["Precision"], rows["Products"]) == ("float32", "ieee")


@pytest.mark.parametrize("profile", PROFILES)
def test_the_builder_passes_the_device_to_the_pages_that_have_it(profile):
    plain, on_cpu = profile_parameters(profile), profile_parameters(profile, "cpu")
    assert plain == notebook_parameters(profile)
    for page, asked in plain.items():
        assert on_cpu[page] == (asked | {"device": "cpu"} if page in OBTAINING else asked)


def test_the_builder_starts_no_notebook_for_a_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("cuda", "gpu"):
        with pytest.raises(ValueError, match=rf"device '{device}'[^\n]*$"):
            profile_parameters("paper", device)


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ((), "--profile quick --device auto --jobs 2 --timeout 1800"),
        (("PROFILE=paper", "DEVICE=cuda"), "--profile paper --device cuda --jobs 1 --timeout 604800"),
        (("DEVICE=cuda:1", "JOBS=3", "TIMEOUT=60"), "--profile quick --device cuda:1 --jobs 3 --timeout 60"),
    ],
)
def test_make_book_takes_a_device(words, options):
    unset = {"DEVICE", "JOBS", "MAKEFLAGS", "PROFILE", "TIMEOUT"}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    command = ["make", "--dry-run", "book", *words]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
    assert f"workflow.build_book {options}" in " ".join(shown.stdout.replace("\\\n", " ").split())

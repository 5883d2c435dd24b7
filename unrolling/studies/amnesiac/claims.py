"""Section 9: whether e is a proxy for amnesiac unlearning, and what noise does to it (Figures 14, 15)."""

from dataclasses import replace

import torch

from unrolling._checks import DataError
from unrolling.data import load_dataset
from unrolling.metrics.intervals import mean_correlation
from unrolling.paper import Finding, NotTestable
from unrolling.runs import after_epochs
from unrolling.runs.config import RunConfig
from unrolling.runs.frames import trace_frame
from unrolling.runs.inputs import load_data
from unrolling.store import Record
from unrolling.studies.amnesiac.frames import METHODS, follow, follow_over_steps
from unrolling.studies.amnesiac.repeats import deterministic_kernels, spread, spread_over_threads
from unrolling.studies.decide import at_least
from unrolling.studies.ledger import Result, check
from unrolling.studies.proxy.claims import panel, widest_correlation
from unrolling.studies.proxy.frames import clusterings

PAGE = "17_amnesiac"
#: At one epoch amnesiac and single-gradient unlearning are the same.
EPOCHS = 2


def correlate_over_settings(records: list[Record], least: float) -> Finding:
    """Decide one half of Figure 14."""
    points = after_epochs(records, EPOCHS)
    found = {column: follow(points, column) for column in METHODS}
    own, nothing = found["v_amnesiac"], found["v_nothing"]
    pearson = widest_correlation(points["e"], points["v_amnesiac"], clusterings(points))
    rooted = widest_correlation(points["e_root"], points["v_amnesiac"], []).value
    return Finding(
        propositions={f"Pearson's correlation is at least {least:g}": at_least(pearson, least)},
        value=pearson.value,
        value_is=f"Pearson's correlation of e and v over {own.pearson.count} runs, after {EPOCHS} epochs",
        interval=pearson.interval,
        reason=f"With the roots of the eigenvalue in e it is {rooted:.2f}. The same e has "
        f"{found['v'].pearson.value:.2f} with v after single-gradient unlearning and "
        f"{nothing.pearson.value:.2f} with v after doing nothing. Amnesiac unlearning leaves "
        f"{own.ratio:.2f} of the v of doing nothing (geometric mean) and is the better of the two in "
        f"{100 * own.helped:.0f} % of the runs.",
    )


@check("V15", page=PAGE, experiment="amnesiac", part="grid")
def errors_correlate_over_settings(records: list[Record]) -> Finding:
    """Correlate e and amnesiac unlearning's v over all settings."""
    return correlate_over_settings(records, 0.8)


@check("V16", page=PAGE, experiment="amnesiac", part="grid_cifar100", profile="paper")
def errors_correlate_over_settings_of_the_harder_data(records: list[Record]) -> Finding:
    """The same for CIFAR-100."""
    return correlate_over_settings(records, 0.65)


@check("V17", page=PAGE, experiment="amnesiac", part="steps")
def errors_correlate_over_steps(records: list[Record]) -> Finding:
    """Correlate e and amnesiac unlearning's v over the recorded steps of each run."""
    runs = follow_over_steps(trace_frame(records), ["v_amnesiac", "v"])
    own, single = (runs[runs["method"] == method] for method in ("v_amnesiac", "v"))
    panels = dict(list(own.groupby("pretrain_epochs")))
    found = {n: panel(frame["raw"].tolist()) for n, frame in panels.items()}
    lowest = min(found, key=lambda n: found[n][0].value)
    least, _ = found[lowest]
    other = {n: mean_correlation(frame["raw"])[0] for n, frame in single.groupby("pretrain_epochs")}
    return Finding(
        propositions={
            f"Pearson's correlation is at least 0.9 {name}": found[n][1]
            for name, n in (("without pre-training", min(found)), ("after pre-training", max(found)))
        },
        value=least.value,
        value_is=f"lower of the correlations of e and v over the steps, N = {lowest} epochs, mean over "
        f"{len(panels[lowest])} seeds",
        interval=least.interval,
        reason="; ".join(
            f"N = {n}: {found[n][0].value:.2f}, single-gradient {other[n]:.2f}, t alone "
            f"{mean_correlation(frame['steps_v'])[0]:.2f}, given t "
            f"{mean_correlation(frame['given_steps'])[0]:.2f} is left"
            for n, frame in panels.items()
        )
        + ".",
    )


#: Small enough for a CPU: what notebook 12 measures its noise floor on.
REPEATED = RunConfig(dataset="digits", train_size=480, test_size=100, model="resnet-small", pretrain_epochs=0)


def decide_noise(free: float, deterministic: float) -> Finding:
    """Decide from the distance of two runs, relative to the way gone, with either kind of kernels."""
    return Finding(
        propositions={
            "nondeterministic kernels: the runs end more than 0.05 of the way apart": free > 0.05,
            "deterministic kernels: they end at the same weights": deterministic == 0,
        },
        value=free,
        value_is="distance of two runs over ||w_t - w_0||, kernels as PyTorch chooses them",
        reason=f"With deterministic kernels it is {deterministic:.1e}. Corollary 1 allows for noise in the "
        "weights, but not in the update that is added to them, and amnesiac unlearning's follows the path.",
    )


@check("V18", page=PAGE, profile="paper")
def noise_leads_to_other_weights() -> Result:
    """Train the paper's ResNet-18 on CIFAR-10 twice with either kind of GPU kernels, an epoch each."""
    if not torch.cuda.is_available():
        small = load_data(REPEATED)
        single = replace(REPEATED, dtype="float32")
        return NotTestable(
            "The noise is that of GPU kernels, and PyTorch sees no GPU here. On this CPU two trainings of a "
            f"small ResNet end {spread(REPEATED, small):.1g} of the way apart in double precision, and "
            f"{spread_over_threads(single, small):.0e} in single precision with one thread and two."
        )
    try:
        dataset = load_dataset("cifar10")
    except DataError as error:
        return NotTestable(f"There is a GPU, but not the data: {error}")
    config = RunConfig(dtype="float32", pretrain_epochs=0)
    distances = {}
    for deterministic in (False, True):
        with deterministic_kernels(deterministic):
            distances[deterministic] = spread(config, dataset, device="cuda")
    return decide_noise(distances[False], distances[True])

"""The analysis and the claims P01 to P04 and R01 to R05 on made-up records whose answer is known."""

import itertools

import numpy as np
import pytest
from scipy import stats

from unrolling.experiments import config_from, load_profile
from unrolling.experiments.checks import privacy_risk as checks
from unrolling.experiments.privacy_risk import (
    SETTING,
    TRIPLET,
    by_strength,
    mean_over_seeds,
    opposed,
    opposed_in_every_seed,
    rank_correlation,
    ranks_over_strength,
    score_frame,
)
from unrolling.store import Record


def record(*, before, after, v, v_nothing=1.0, accuracy=0.9, retrained=0.5, **settings):
    """Return a run of which only the scores, v, the accuracy of M'' and some settings matter."""
    config = config_from({"dataset": "digits", "model": "mlp", "shadow_size": 96, **settings})

    def scores(score, accuracy=0.9):
        return {"score": score, "released": None, "missing": 1.0, "accuracy": accuracy}

    unlearned = dict.fromkeys(("single_gradient", "final_gradient", "amnesiac"), scores(after, accuracy))
    others = {
        "trained": scores(before),
        "retrained": scores(retrained),
        "signal": {"auc": 0.7, "nonmembers": 0.4},
    }
    trace = {"step": [2], "v_nothing": [v_nothing]}
    trace |= {key: [v] for key in ("v", "v_amnesiac", "v_final_gradient")}
    return Record(
        config=config.to_dict(),
        data={"name": "digits", "fingerprint": "0"},
        result={
            "trace": trace | {"e": [1.0]},
            "sigma": {"step": [0], "eigenvalue": [1.0]},
            "privacy": unlearned | others,
        },
        provenance={},
    )


def triplets(score, v, *, seeds=3, noise=0.0, accuracy=None, **same):
    """Return settings that differ in N, whose score and v are these; ``noise`` alternates over the seeds."""
    accuracy = np.linspace(0.5, 0.9, len(score)) if accuracy is None else accuracy
    return [
        record(
            before=0.6,
            after=s + noise * (-1) ** seed,
            v=d,
            accuracy=a,
            pretrain_epochs=i,
            seed=seed,
            **same,
        )
        for i, (s, d, a) in enumerate(zip(score, v, accuracy, strict=True))
        for seed in range(seeds)
    ]


RISING = np.linspace(0.2, 0.8, 12)
SHUFFLED = RISING[[7, 2, 11, 4, 0, 9, 6, 1, 10, 3, 5, 8]]


@pytest.mark.parametrize(
    ("v", "verdict"), [(RISING, "contradicted"), (-RISING + 2, "contradicted"), (SHUFFLED, "reproduced")]
)
@pytest.mark.parametrize(
    "check",
    [
        checks.score_and_v_are_weakly_correlated,
        checks.score_and_v_are_weakly_correlated_on_the_other_data,
        checks.score_and_v_have_no_monotonic_relation,
    ],
)
def test_a_strong_correlation_of_either_sign_is_told_from_none(check, v, verdict):
    found = check(triplets(RISING, v))
    assert found.verdict == verdict
    assert found.interval[0] <= found.value <= found.interval[1]


@pytest.mark.parametrize(("accuracy", "said"), [(RISING, True), (RISING[::-1], False), (SHUFFLED, False)])
def test_damage_is_named_where_the_score_follows_the_accuracy(accuracy, said):
    reason = checks.score_and_v_are_weakly_correlated(triplets(RISING, SHUFFLED, accuracy=accuracy)).reason
    assert ("damaged" in reason) is said


def test_a_clear_but_weak_correlation_is_half_of_the_claim():
    """At r = 0.45 over very many settings the interval is narrow and excludes 0."""
    x = np.linspace(-1, 1, 144)
    wave = np.where(np.arange(144) % 2, 1.0, -1.0)
    found = checks.score_and_v_are_weakly_correlated(
        triplets(0.5 + x / 4, 3 + 0.45 * x / x.std() + np.sqrt(1 - 0.45**2) * wave, seeds=1)
    )
    assert found.value == pytest.approx(0.45, abs=0.02)
    assert found.verdict == "partly"


def test_each_data_set_is_correlated_on_its_own():
    one, other = triplets(RISING, SHUFFLED), triplets(RISING, RISING, dataset="cifar100")
    both = [*one, *other]
    assert checks.score_and_v_are_weakly_correlated(both).verdict == "reproduced"
    assert checks.score_and_v_are_weakly_correlated_on_the_other_data(both).verdict == "contradicted"
    found = checks.score_and_v_have_no_monotonic_relation(both)
    assert (found.verdict, found.value) == ("contradicted", pytest.approx(1))
    assert checks.a_lower_score_does_not_imply_a_lower_v(both).value == 0


def test_seeds_are_averaged_before_settings_are_compared():
    found = checks.score_and_v_have_no_monotonic_relation(triplets(RISING, RISING, seeds=2, noise=0.2))
    assert found.value == pytest.approx(1)


@pytest.mark.parametrize(
    ("v", "share", "verdict"), [(RISING, 0, "contradicted"), (-RISING + 2, 1, "reproduced")]
)
def test_opposed_pairs_are_counted(v, share, verdict):
    found = checks.a_lower_score_does_not_imply_a_lower_v(triplets(RISING, v))
    assert (found.value, found.verdict) == (share, verdict)
    assert f"In {100 * share} % of all pairs it is so in every seed" in found.reason


def test_runs_in_which_unlearning_lowers_the_score_and_raises_v_are_counted():
    runs = [
        record(before=0.6, after=0.5, v=2.0, pretrain_epochs=0),  # this one
        record(before=0.6, after=0.5, v=0.5, pretrain_epochs=1),
        record(before=0.6, after=0.7, v=2.0, pretrain_epochs=2),
    ]
    reason = checks.a_lower_score_does_not_imply_a_lower_v(runs).reason
    assert "in 1 of 3 runs amnesiac unlearning lowers the score" in reason


def test_opposed_is_kendalls_tau_where_nothing_is_equal():
    generator = np.random.default_rng(0)
    x, y = generator.random(30), generator.random(30)
    assert opposed(x, y) == pytest.approx((1 - stats.kendalltau(x, y).statistic) / 2)
    assert opposed([1, 1, 1], [1, 2, 3]) == 0


def test_one_seed_that_disagrees_spoils_a_pair():
    runs = [
        record(before=0.6, after=after, v=v, pretrain_epochs=i, seed=seed)
        for seed, table in enumerate(
            [[(0.2, 2), (0.1, 3), (0.3, 1)], [(0.2, 2), (0.1, 3), (0.3, 2.5)]]  # 0.2 and 0.3: opposed once
        )
        for i, (after, v) in enumerate(table)
    ]
    scores = score_frame(runs).query("unlearning == 'amnesiac'")
    assert opposed_in_every_seed(scores, TRIPLET) == pytest.approx(2 / 3)


def grid(before, after, v, *, models=("mlp", "vgg-small"), accuracy=0.9):
    """Return settings and strengths 0 to 3, each value a function of (model number, gamma)."""
    return [
        record(
            before=before(i, gamma),
            after=after(i, gamma),
            v=v(i, gamma),
            model=model,
            gamma=gamma,
            seed=seed,
            accuracy=accuracy,
        )
        for (i, model), gamma, seed in itertools.product(enumerate(models), range(4), range(2))
    ]


def same(value):
    return lambda model, gamma: value


@pytest.mark.parametrize(
    ("after", "verdict"),
    [
        (same(0.3), "reproduced"),
        (same(0.6), "contradicted"),
        (same(0.1), "contradicted"),
        (lambda model, gamma: 0.3 if model else 0.5, "contradicted"),
        (lambda model, gamma: 0.3 if gamma == 0 else 0.6, "reproduced"),  # with a penalty does not matter
    ],
)
def test_a_score_is_halved_or_not(after, verdict):
    assert checks.unlearning_halves_the_score(grid(same(0.6), after, same(1.0))).verdict == verdict


@pytest.mark.parametrize(("slope", "verdict"), [(-0.1, "reproduced"), (0.1, "contradicted")])
def test_the_score_before_falls_or_rises_with_gamma(slope, verdict):
    runs = grid(lambda model, gamma: 0.5 + slope * gamma, same(0.3), same(1.0))
    found = checks.a_stronger_penalty_lowers_the_score(runs)
    assert (found.verdict, found.value) == (verdict, np.sign(slope))


def test_one_setting_against_another_is_no_trend():
    runs = grid(lambda model, gamma: 0.5 + 0.1 * gamma * (-1) ** model, same(0.3), same(1.0))
    assert checks.a_stronger_penalty_lowers_the_score(runs).value == 0


def table(values, second=1):
    """Return scores in the order of ``values``; those of the second model times ``second``."""
    return lambda model, gamma: 0.5 + 0.05 * values[gamma] * (second if model else 1)


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (table([0, 3, 1, 2], second=-1), table([2, 0, 3, 1]), "reproduced"),  # 0.4, -0.4, 0, 0
        (table([0, 2, 1, 3]), table([3, 2, 1, 0]), "partly"),  # 0.8 and -1 twice: both signs, but strong
        (table([0, 3, 1, 2]), table([0, 3, 1, 2]), "partly"),  # 0.4 throughout: weak, but of one sign
        (table([2, 1, 3, 0]), table([2, 1, 3, 0]), "partly"),  # -0.4 throughout
        (table([0, 1, 2, 3]), table([0, 1, 2, 3]), "contradicted"),
    ],
)
def test_signs_and_sizes_of_rank_correlations(before, after, verdict):
    found = checks.the_score_has_no_monotonic_relation_to_the_strength(grid(before, after, same(1.0)))
    assert found.verdict == verdict


@pytest.mark.parametrize(
    ("after", "share"),
    [
        (same(0.3), 1),
        (same(0.7), 0),
        (lambda model, gamma: 0.3 if model else 0.7, 0.5),
        (lambda model, gamma: 0.3 if gamma == 0 else 0.7, 0),  # without a penalty does not count
    ],
)
def test_cells_in_which_the_score_falls(after, share):
    found = checks.with_a_penalty_unlearning_has_no_consistent_effect(grid(same(0.6), after, same(1.0)))
    assert found.value == share
    assert found.verdict == ("reproduced" if share == 0.5 else "contradicted")


@pytest.mark.parametrize(
    ("after", "v", "verdict"),
    [
        (same(0.3), lambda model, gamma: 4.0 - gamma, "reproduced"),
        (same(0.6), lambda model, gamma: 4.0 - gamma, "partly"),
        (same(0.3), lambda model, gamma: 1.4 if gamma == 0 else 1.0, "partly"),
        (same(0.6), lambda model, gamma: 1.0 + gamma, "contradicted"),
    ],
)
def test_what_the_penalty_is_needed_for(after, v, verdict):
    found = checks.the_penalty_is_needed_to_lower_v_not_the_score(grid(same(0.6), after, v))
    assert found.verdict == verdict


def test_a_score_frame_puts_each_models_distance_beside_its_score():
    run = record(before=0.6, after=0.3, v=5.0, v_nothing=2.0, accuracy=0.1, retrained=0.4)
    run.result["trace"] |= {"v": [1.0], "v_amnesiac": [3.0], "v_final_gradient": [4.0]}
    frame = score_frame([run])
    rows = frame.set_index("unlearning")[["score", "distance", "accuracy_test", "score_before"]]
    assert rows.loc["trained"].tolist() == [0.6, 2.0, 0.9, 0.6]
    assert rows.loc["amnesiac"].tolist() == [0.3, 3.0, 0.1, 0.6]
    assert rows["distance"].to_dict() == {
        "trained": 2.0,
        "single_gradient": 1.0,
        "amnesiac": 3.0,
        "final_gradient": 4.0,
    }
    assert frame["score_retrained"].tolist() == [0.4] * 4
    assert frame["score_unseen"].tolist() == [0.4] * 4


def test_ratios_over_strength_are_of_means_over_seeds():
    runs = [
        record(before=before, after=after, v=v, v_nothing=nothing, retrained=0.7, seed=seed)
        for seed, (before, after, v, nothing) in enumerate([(0.6, 0.5, 1.0, 4.0), (0.4, 0.1, 5.0, 2.0)])
    ]
    (row,) = by_strength(score_frame(runs)).to_dict("records")
    assert (row["remaining"], row["ratio"]) == (pytest.approx(0.3 / 0.5), pytest.approx(3 / 3))


def test_a_constant_score_follows_nothing():
    assert rank_correlation([0, 1, 2], [0.5, 0.5, 0.5]) == 0
    assert rank_correlation([0, 1, 2], [0.5, 0.6, 0.9]) == pytest.approx(1)


def test_ranks_are_those_of_each_setting():
    runs = grid(lambda model, gamma: 0.5 + 0.1 * gamma * (-1) ** model, same(0.3), same(1.0))
    means = mean_over_seeds(score_frame(runs).query("unlearning == 'single_gradient'"), [*SETTING, "gamma"])
    found = ranks_over_strength(means, SETTING).set_index("model")
    assert found["before"].to_dict() == pytest.approx({"mlp": 1, "vgg-small": -1})
    assert found["after"].tolist() == [0, 0]


@pytest.mark.parametrize("profile", ["quick", "small", "paper"])
def test_every_profile_has_a_signal_to_measure_and_several_steps_on_the_batch(profile):
    experiment = load_profile(profile).experiment("privacy_risk")
    for part in experiment.parts:
        configs = experiment.configs(part)
        assert all(config.shadow_size == config.train_size > 0 for config in configs)
        assert all(config.epochs >= 2 for config in configs)  # else amnesiac is single-gradient unlearning

"""The numbers in the sentences on text: on Table 2, whose cells are known, and on numbers done by hand."""

import math

import pandas as pd
import pytest

from unrolling._checks import DataError
from unrolling.paper import reported_table
from unrolling.runs import load_profile
from unrolling.store import Record, Store
from unrolling.studies.printed import printed_rows
from unrolling.studies.text import numbers, real_reviews
from unrolling.studies.text.encoders import describe_encoder
from unrolling.studies.text.frames import relative

TABLE_2 = reported_table("table2").set_index("strength")


def printed(loss="sd", **columns):
    """Return the rows of Table 2 as if they were runs of ours."""
    more = {"v_nothing": 1.0, "learning_rate": 0.5, "forget_gradient_norm": 4.0} | columns
    return relative(printed_rows("table2").assign(loss=loss, **more))


def test_the_drop_of_e_in_table_2():
    left = TABLE_2["unlearning_error"][1.5] / TABLE_2["unlearning_error"][0.0]
    assert numbers.of_printed() == pytest.approx(
        {"printed-times": 1 / left, "printed-drop": 100 - 100 * left}
    )


def test_the_best_epoch_is_that_of_the_mean_and_of_each_seed():
    epochs = pd.DataFrame({1: [80.0, 85.0], 2: [88.0, 84.0], 3: [81.0, 83.0]}, index=[0, 1])
    found = numbers.of_epochs(epochs, test_size=50)
    assert found == {"best-epoch": 2, "best": 86, "third": 82, "best-seeds": "2, 1", "one-review": 2}


def test_masks_and_batch_add_up_in_squares():
    cases = pd.DataFrame(
        {
            "seed": 0,
            "dropout": ["off", "shared", "independent"],
            "v_nothing": [2.0, 3.0, 5.0],
            "v": [1.0, 1.5, 4.0],
        }
    )
    assert numbers.of_dropout(cases) == {
        "off-ratio": "0.50",
        "shared-ratio": "0.50",
        "independent-ratio": "0.80",
        "apart": "1.67",
        "shared-off": "1.5",
        "masks": "1.3",  # 3 squared and 4 squared are 5 squared
    }


def test_strengths_in_either_unit_of_table_2():
    rows = printed()
    found = numbers.of_strengths(rows, printed("sd_released"))
    assert (found["largest"], found["goal"]) == (1.5, 80)
    assert found["drop-one"] == "0.10"
    assert found["good"] == "0, 0.01, 0.1, 0.5, 1, 1.25, 1.5"  # Table 2 never falls below 80 %
    assert (found["update-norm"], found["update-apart"]) == (2, 1)
    # v is above 1, that of doing nothing, up to 0.5 in either unit
    assert found["harms"] == "0, 0.007, 0.01, 0.071, 0.1, 0.354, 0.5"
    assert found["helps"] == "0.707, 0.884, 1, 1.061, 1.25, 1.5"
    bad = rows.assign(accuracy=rows["accuracy"].where(rows["gamma"] < 1, 0.6))
    assert numbers.of_strengths(bad, bad)["good"] == "0, 0.01, 0.1, 0.5"
    assert numbers.listed([]) == "none"


def test_the_head_has_its_factors_at_one():
    rows = printed(weight_change=1.0, sigma_avg=2.0)
    rows.loc[rows["gamma"] == 1, ["weight_change", "sigma_avg"]] = (3.0, 8.0)
    found = numbers.of_head(rows, printed("sd_released"))
    assert found["head-e"] == "0.10"
    assert (found["head-weight_change"], found["head-sigma_avg"]) == pytest.approx((3, 4))
    errors = TABLE_2["verification_error"]
    assert (found["head-low"], found["head-high"]) == (errors.min(), errors.max())


def test_what_guessing_reaches_beyond_the_collapse():
    rows = printed()
    rows.loc[rows["gamma"] == 1.25, "percent"] = 58.0
    found = numbers.of_collapse(rows, printed("sd_released"), test_size=100)
    assert found["beyond-runs"] == 4  # 1, 1.25 and 1.5 of Eq. 10, and 1.5 of the released code
    assert found["guessing"] == pytest.approx(59.8)
    assert found["beyond-guessing"] == 1
    assert (found["beyond-low"], found["beyond-high"]) == pytest.approx((58, 92.09))
    assert {found[f"lost-{name}"] for name in ("own", "released", "paper")} == {"0.0, 4.9, 7.1"}


def test_a_gain_is_written_with_a_minus_and_nothing_without():
    assert numbers.points_text([-1.46, -0.04, 2.0]) == "−1.5, 0.0, 2.0"


def test_correlations_of_table_2_for_sentences():
    rows = printed(v_nothing=printed_rows("table2")["e"])
    found = numbers.of_correlations(rows, rows, rows)
    assert found["again"] == pytest.approx(0.9977, abs=5e-5)
    half = 1.959964 / 2  # Fisher's, of seven points
    ends = [math.tanh(math.atanh(found["again"]) + sign * half) for sign in (-1, 1)]
    assert found["again-interval"] == f"[{ends[0]:.3f}, {ends[1]:.3f}]"
    assert found["again-spearman"] == pytest.approx(13 / 14)
    assert {found[f"ten{name}"].split()[0] for name in ("", "-released", "-head", "-nothing")} == {"1.0"}
    assert found["ten-spearman"].startswith("0.93")


def test_ranks_of_table_2():
    assert numbers.of_ranks([printed(), printed("sd_released")]) == {
        "rank-e": "−0.96 and −0.96",  # 85.10 and 85.89 have changed places, of seven
        "rank-v": "−0.96 and −0.96",  # 0.43 and 0.48 have
    }


def test_the_nearer_units_are_those_whose_losses_are_printed():
    other = printed_rows("table2")
    other.loc[other["gamma"] >= 1, "accuracy"] -= 0.1
    found = real_reviews.of_units((other, printed_rows("table2")))
    assert "loses 0.0, 4.9, 7.1 points" in found
    assert "ours lose 10.0, 14.9, 17.1 with these numbers in the units of Eq. 10 and 0.0, 4.9, 7.1" in found
    assert "units of the released code come nearer: 0.0 points off on average against 10.0" in found
    assert "units of Eq. 10 come nearer" in real_reviews.of_units((printed_rows("table2"), other))


def test_sentences_on_errors_have_the_strongest_good_strength():
    rows = printed()
    rows["accuracy"] = rows["accuracy"].where(rows["gamma"] < 1, 0.6)
    found = real_reviews.of_errors(rows)
    assert "reaches 80 % are: 0, 0.01, 0.1, 0.5. At the largest of them e is 0.38 of" in found
    assert "v is 0.43 to 4.35 times that of doing nothing" in found
    only_plain = rows.assign(accuracy=rows["accuracy"].where(rows["gamma"] == 0, 0.6))
    assert "are: 0. v is" in real_reviews.of_errors(only_plain)


def test_the_index_has_what_one_costs_in_either_unit():
    other = printed_rows("table2")
    other.loc[other["gamma"] == 1, ["accuracy", "e"]] = (0.5, 42.55)
    found = real_reviews.of_index((printed_rows("table2"), other))
    assert (found["printed"], found["own"]) == pytest.approx((0.04, 0.04))
    assert found["released"] == pytest.approx(42.13)
    assert (found["own-e"], found["released-e"]) == pytest.approx((8.91 / 85.10, 0.5))
    assert found["own-pearson"] == pytest.approx(0.9977, abs=5e-5)


def test_the_size_of_an_update_is_that_without_a_penalty():
    rows = printed(step=10, sigma_avg=3.0)
    rows.loc[rows["gamma"] > 0, "sigma_avg"] = 99.0
    assert real_reviews.update_size(rows) == pytest.approx(0.5 * 10 * 3)


@pytest.mark.parametrize(
    ("experiment", "part"),
    [("text", "whole"), ("text", "head_released"), ("fine_tuning", "epochs"), ("fine_tuning", "plain")],
)
def test_all_runs_on_real_reviews_are_stored(experiment, part):
    configs = load_profile("small").experiment(experiment).configs(part)
    assert len(real_reviews.stored_runs(experiment, part)) == len(configs)


def test_a_run_that_is_not_stored_is_missed(monkeypatch):
    monkeypatch.setattr(real_reviews, "published", lambda configs, profile: [None] * (len(configs) - 1))
    with pytest.raises(
        DataError, match=r"^expected 3 stored runs of 'epochs' of 'fine_tuning' [^\n]* found 2:"
    ):
        real_reviews.stored_runs("fine_tuning", "epochs")


def test_the_encoder_of_a_run_is_found_where_it_is_kept(tmp_path):
    config, result = {"size": 2400, "epochs": 6}, {"num_parameters": 1234, "accuracy": 0.885}
    shelf = Store(tmp_path / "there" / "encoders")
    encoder = Record(config, {"name": "reviews", "fingerprint": "0" * 16}, result, {})
    shelf.put(encoder)
    places = [Store(tmp_path / "empty"), Store(tmp_path / "there")]
    run = Record({}, {}, {"encoder": {"address": encoder.address}}, {})
    said = describe_encoder(run, places)
    assert f"address {encoder.address}: 2,400 reviews" in said
    assert said.endswith(
        "6 epochs, 1,234 parameters; as a classifier it gets 88.5 % of the test reviews right."
    )
    for other in (Record({}, {}, {}, {}), Record({}, {}, {"encoder": {"address": "f" * 16}}, {})):
        assert describe_encoder(other, places) == "They start from no encoder that is kept here."

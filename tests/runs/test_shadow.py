"""Privacy risk scores of a run's models: which data teach them, in which mode, and what is missing."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from unrolling import make_generator
from unrolling._checks import InputError
from unrolling.data import load_dataset
from unrolling.losses import Objective
from unrolling.metrics.privacy_risk import privacy_risk_score, privacy_risk_score_released
from unrolling.parameters import distance, trainable
from unrolling.runs import RunConfig, config_from, published_store
from unrolling.runs import trainer as run_module
from unrolling.runs.checkpoint import Checkpoint
from unrolling.runs.execute import execute
from unrolling.runs.inputs import load_data
from unrolling.runs.pretraining import train_alone
from unrolling.runs.protocol import make_protocol
from unrolling.runs.setup import initial_model, set_up
from unrolling.runs.shadow import SCORES, privacy_risk, shadow_run
from unrolling.runs.trainer import Trainer
from unrolling.training import DivergedError, Stepper, train


class Lookup(nn.Module):
    """Has a table of logits; an input is the number of its row. Training mode adds ``shift`` to the first."""

    def __init__(self, table, shift=0.0):
        super().__init__()
        self.table = nn.Parameter(table)
        self.shift = shift

    def forward(self, x):
        logits = self.table[x[:, 0].long()]
        if self.training:
            first = torch.zeros_like(logits)
            first[:, 0] = self.shift * len(x)
            logits = logits + first
        return logits


def rows(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)[:, None]


def confident(size, lead):
    """Return two-class logits whose true class, the parity of the row, leads by ``lead``: one or all."""
    leads = torch.as_tensor(lead, dtype=torch.float64).expand(size)
    labels = torch.arange(size) % 2
    return torch.stack([leads * (labels == 0), leads * (labels == 1)], dim=1), labels


@pytest.fixture
def case():
    """Rows 0-3 were seen by the shadow model, 4-7 by M, 8-15 by neither; even rows are class 0."""
    leads = [9.0] * 4 + [1.0] * 4 + [1.0] * 8
    shadow = Lookup(confident(16, leads)[0])
    trained = Lookup(confident(16, [1.0] * 4 + [9.0] * 4 + [1.0] * 8)[0])
    _, labels = confident(16, 1.0)

    def batch(*numbers):
        return rows(*numbers), labels[list(numbers)]

    # Every second test row calibrates: 8, 9 and 12, 13 are the first of each pair of two.
    return {
        "models": {"trained": trained, "retrained": Lookup(shadow.table.detach().clone())},
        "shadow": shadow,
        "shadow_members": batch(0, 1, 2, 3),
        "members": batch(4, 5, 6, 7),
        "test_data": batch(8, 11, 9, 10, 12, 15, 13, 14),
        "forgotten": batch(4, 5),
        "batch_size": 4,
    }


def test_a_perfect_tell_gives_certainty_for_the_model_that_saw_it_and_none_for_the_other(case):
    found = privacy_risk(**case)
    assert found["trained"]["score"] == 1
    assert found["retrained"]["score"] == 0
    assert found["signal"]["auc"] == 1
    assert (found["signal"]["members"], found["signal"]["nonmembers"]) == (1, 0)


def test_the_scores_are_those_of_the_metric_in_the_named_reading(case):
    generator = make_generator(0, "tables")
    case["shadow"], case["models"]["trained"] = (
        Lookup(torch.randn(16, 2, generator=generator, dtype=torch.float64), shift=0.3) for _ in range(2)
    )
    found = privacy_risk(**case)["trained"]
    x, y = case["test_data"]
    known = [case["shadow_members"], (x[0::2], y[0::2])]

    def logits(model, data, training):
        model = copy.deepcopy(model).train(training)
        return model(data[0]).detach(), data[1]

    def outputs(training):
        return [
            *(logits(case["shadow"], data, training) for data in known),
            logits(case["models"]["trained"], case["forgotten"], training),
        ]

    def softmax(pairs):
        return [(values.softmax(dim=1), labels) for values, labels in pairs]

    expected = {
        "score": privacy_risk_score(*softmax(outputs(False))),
        "training_mode": privacy_risk_score(*softmax(outputs(True))),
        "released_bins": privacy_risk_score_released(*softmax(outputs(False))),
        "released_logits": privacy_risk_score_released(*outputs(False)),
        "released": privacy_risk_score_released(*outputs(True)),
    }
    assert set(expected) == set(SCORES)
    for reading, values in expected.items():
        present = values[~values.isnan()]
        mean = float(present.mean()) if len(present) else None
        assert found[reading] == (mean if mean is None else pytest.approx(mean)), reading


def test_in_training_mode_no_more_than_a_batch_passes_together(case):
    """The lookup's training mode adds what depends on how many pass together."""
    seen = []

    class Watched(Lookup):
        def forward(self, x):
            seen.append((len(x), self.training))
            return super().forward(x)

    case["models"]["trained"] = Watched(case["models"]["trained"].table.detach().clone())
    privacy_risk(**(case | {"batch_size": 3}))
    assert max(size for size, training in seen if training) == 2  # four in two equal parts, not 3 + 1
    assert min(size for size, training in seen if training) > 1


@pytest.mark.parametrize(("leads", "score", "missing"), [((15.0, 9.0), 0.5, 0.5), ((15.0, 15.0), None, 1.0)])
def test_missing_scores_are_left_out_and_counted(case, leads, score, missing):
    """Logits (9, 0) and (0, 0) give all members and non-members the ends of the range; 15 lies between."""
    ends = [9.0, 9.0, 0.0, 0.0]
    case["shadow"] = Lookup(confident(16, ends + [1.0] * 4 + [9.0] * 4 + [0.0] * 4)[0])
    case["models"]["trained"] = Lookup(confident(16, [9.0] * 4 + [*leads] + [9.0] * 10)[0])
    found = privacy_risk(**case)["trained"]
    assert (found["released"], found["missing"]) == (score, missing)
    assert found["score"] is not None
    json.dumps(found, allow_nan=False)


def test_models_are_left_as_they_were(case):
    case["models"]["trained"] = nn.Sequential(
        nn.BatchNorm1d(1, dtype=torch.float64), nn.Linear(1, 2).double()
    )
    case["shadow"] = copy.deepcopy(case["models"]["trained"]).eval()
    before = {name: copy.deepcopy(model.state_dict()) for name, model in case["models"].items()}
    privacy_risk(**case)
    assert case["models"]["trained"].training
    assert not case["shadow"].training
    for name, model in case["models"].items():
        for key, value in model.state_dict().items():
            assert torch.equal(value, before[name][key])


TINY = RunConfig(
    dataset="digits",
    train_size=40,
    shadow_size=40,
    model="mlp",
    batch_size=10,
    pretrain_epochs=2,
    epochs=2,
    seed=3,
)


OTHERS = ({"train_size": 41}, {"shadow_size": 41})


def test_a_shadow_model_has_its_own_examples_weights_and_nothing_to_forget():
    settings, data = shadow_run(TINY)
    own = {tuple(x) for x in load_data(TINY).train_inputs.flatten(1).tolist()}
    theirs = {tuple(x) for x in data.train_inputs.flatten(1).tolist()}
    assert len(theirs) == 40
    assert not own & theirs
    assert settings.shadow_size == 0
    assert data.description.endswith("; 40 training examples that the run leaves out")
    others = [load_data(TINY), *(shadow_run(replace(TINY, **c))[1] for c in OTHERS)]
    assert len({data.fingerprint, load_dataset("digits").fingerprint} | {d.fingerprint for d in others}) == 5
    first, second = (next(initial_model(c, data).parameters()) for c in (TINY, settings))
    assert not torch.equal(first, second)
    same = replace(TINY, seed=settings.seed, shadow_size=0)
    assert settings == same
    other = replace(TINY, pretraining="retrained", forget_batch=1, forget_count=2, forget_size=3)
    assert shadow_run(other)[0] == same


def test_more_shadow_examples_than_are_left_are_refused():
    with pytest.raises(InputError, match="must be at most 1400, what 40 of 1440 training examples leave"):
        shadow_run(RunConfig(dataset="digits", train_size=40, shadow_size=1401))
    with pytest.raises(InputError, match="must be at most 0"):
        shadow_run(RunConfig(dataset="digits", shadow_size=1))


def test_further_training_data_and_the_subset_make_the_larger_subset():
    data = load_dataset("digits")
    small, large = (data.subset(n, 5, make_generator(0, "subset")).train_labels for n in (30, 70))
    more = data.more_training_data(30, 40, make_generator(0, "subset"))[1]
    assert (small.bincount() + more.bincount()).tolist() == large.bincount().tolist()
    assert more.bincount().tolist() == pytest.approx([4] * 10, abs=1)


def test_a_run_records_the_scores_of_all_its_models_and_nothing_else_changes():
    plain = execute(replace(TINY, shadow_size=0), load_data(TINY))
    result = execute(TINY, load_data(TINY))
    privacy = result.pop("privacy")
    assert result == plain
    assert set(privacy) == {
        "trained",
        "retrained",
        "single_gradient",
        "final_gradient",
        "amnesiac",
        "signal",
    }
    assert privacy["trained"]["accuracy"] == result["trace"]["accuracy"][-1]
    assert privacy["retrained"]["accuracy"] == result["trace"]["accuracy_retrained"][-1]
    assert privacy["single_gradient"]["accuracy"] == result["accuracy_unlearned"]
    assert privacy["amnesiac"] != privacy["single_gradient"]
    assert all(0 <= scores["score"] <= 1 for name, scores in privacy.items() if name != "signal")


STORED = "00e01754e063eb06"  # a perceptron of results/small


def numbers(value, name=""):
    """Return every number of a result by its place."""
    if isinstance(value, dict | list):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        return {place: x for key, part in parts for place, x in numbers(part, f"{name}/{key}").items()}
    return {name: value}


def test_a_stored_run_is_computed_again_as_it_was():
    record = published_store("small").get(STORED)
    config = config_from(record.config)
    found, stored = numbers(execute(config, load_data(config))), numbers(record.result)
    assert found == pytest.approx(stored, rel=1e-6)


@pytest.mark.parametrize("steps", [3, 10, 19, 27])
def test_a_run_interrupted_in_any_part_goes_on_to_the_same_bits(tmp_path, steps):
    """Of the shadow model and of M, 8 steps before w_0 and 8 from there on."""
    checkpoint, seen = Checkpoint(tmp_path / "run.pt"), []

    def interrupt(done, total):
        seen.append((done, total))
        if len(seen) == steps:
            raise KeyboardInterrupt

    data = load_data(TINY)
    with pytest.raises(KeyboardInterrupt):
        execute(TINY, data, checkpoint=checkpoint, checkpoint_seconds=0, progress=interrupt)
    result = execute(TINY, data, checkpoint=checkpoint, checkpoint_seconds=0, progress=interrupt)
    assert seen == [(done, 32) for done in range(1, 33)]
    assert result == execute(TINY, data)


def test_the_shadow_model_takes_its_steps_as_the_run_does(monkeypatch):
    """With CUDA graphs, if the run asks for them."""
    models = []

    class Watching(Stepper):
        def take(self, model, *args):
            models.append(model)
            super().take(model, *args)

    monkeypatch.setattr(run_module, "GraphStepper", Watching)
    execute(TINY, load_data(TINY), graphs=True)
    assert [sum(model is own for model in models) for own in dict.fromkeys(models)] == [16, 16, 6]


def test_a_shadow_model_that_diverges_is_named(monkeypatch):
    class Losing(Stepper):
        def take(self, model, *args):
            with torch.no_grad():
                next(model.parameters()).fill_(torch.nan)

    monkeypatch.setattr(run_module, "Stepper", Losing)
    with pytest.raises(
        DivergedError, match=r"the shadow model's training diverged: weights of M .* after 4 steps"
    ):
        execute(TINY, load_data(TINY))


def alone(settings, data):
    return train_alone(Trainer(set_up(settings, data))).eval()


def test_a_run_scores_its_own_forgotten_batch_by_its_own_shadow_model():
    """M, trained alone, and the shadow model make the recorded score."""
    config = replace(TINY, forget_batch=2)
    settings, more = shadow_run(config)
    data = load_data(config)
    trained, shadow = alone(config, data), alone(settings, more)
    index = list(make_protocol(config, 40).forget)

    def probabilities(model, inputs, labels):
        return model(inputs.double()).softmax(dim=1), labels

    expected = privacy_risk_score(
        probabilities(shadow, more.train_inputs, more.train_labels),
        probabilities(shadow, data.test_inputs[::2], data.test_labels[::2]),
        probabilities(trained, data.train_inputs[index], data.train_labels[index]),
    ).mean()
    found = execute(config, data)["privacy"]["trained"]["score"]
    assert found == pytest.approx(float(expected), abs=1e-12)


def test_the_shadow_model_is_trained_as_m_is():
    settings, data = shadow_run(TINY)
    expected = initial_model(settings, data)
    protocol = make_protocol(settings, len(data.train_labels))
    for order in (protocol.pretraining, protocol.order):
        train(
            expected,
            data.train_inputs.double(),
            data.train_labels,
            order,
            Objective(settings.loss, settings.gamma),
            learning_rate=settings.learning_rate,
        )
    assert distance(trainable(alone(settings, data)), trainable(expected)) == 0

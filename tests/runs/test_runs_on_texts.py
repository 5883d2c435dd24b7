"""Runs on texts: their data, frozen features, dropout, and the same bits however they are carried out."""

import copy
import dataclasses
import json
from itertools import pairwise

import pytest
import torch
from toy_transformers import TOKENS, publish, toy_network

from unrolling import Objective, make_batch_order, make_generator
from unrolling._checks import DataError, InputError
from unrolling.data import load_dataset
from unrolling.data.text import encode, learn_wordpiece
from unrolling.models.text import TextClassifier, pooled_features
from unrolling.runs import RunConfig, config_from, notebook_parameters, obtain, published_store
from unrolling.runs import encoder as encoder_module
from unrolling.runs import inputs as inputs_module
from unrolling.runs import setup as run_module
from unrolling.runs.checkpoint import Checkpoint
from unrolling.runs.encoder import encoder_of, encoder_texts, obtain_encoder
from unrolling.runs.execute import execute
from unrolling.runs.inputs import data_fingerprint, data_settings, load_data
from unrolling.runs.protocol import make_protocol
from unrolling.runs.recipes import Recipe, RecipeStepper
from unrolling.runs.setup import initial_model
from unrolling.runs.shadow import shadow_run
from unrolling.seeding import seeded
from unrolling.store import Store, make_address
from unrolling.studies.taxonomy.matrices import matrix_config, matrix_data

WHOLE = RunConfig(
    dataset="reviews",
    train_size=48,
    test_size=24,
    model="distilbert-small",
    width=4,
    max_tokens=16,
    vocab_size=150,
    encoder_size=60,
    encoder_epochs=1,
    gamma=1.0,
    learning_rate=0.1,
    batch_size=16,
    pretrain_epochs=1,
    epochs=2,
    sigma_every=3,
    sigma_max_hvps=6,
    record_every=3,
)
HEAD = dataclasses.replace(WHOLE, model="linear", width=0, features="distilbert-small")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("UNROLLING_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


# Data


def test_texts_become_the_numbers_of_the_encoders_tokeniser():
    texts = load_dataset("reviews").subset(48, 24, make_generator(0, "subset"))
    own = learn_wordpiece(encoder_texts(encoder_of(WHOLE)).train_texts, 150)
    found, expected = load_data(WHOLE), encode(texts, own, max_tokens=16)
    assert torch.equal(found.train_inputs, expected.train_inputs)
    assert torch.equal(found.test_inputs, expected.test_inputs)
    assert torch.equal(found.train_lengths, expected.train_lengths)
    assert found.train_inputs.shape[1] <= 16


def test_the_fingerprint_is_that_of_the_data_and_changes_with_them():
    configs = [
        dataclasses.replace(WHOLE, **changes)
        for changes in (
            {},
            {"train_size": 50},
            {"test_size": 20},
            {"max_tokens": 15},
            {"vocab_size": 160},
            {"encoder_size": 80},
            {"encoder_epochs": 2},
            {"encoder_size": 0, "encoder_epochs": 0},
        )
    ]
    fingerprints = [data_fingerprint(config) for config in configs]
    assert fingerprints == [load_data(config).fingerprint for config in configs]
    assert len({*fingerprints}) == len({data_settings(config) for config in configs}) == len(configs)


def test_a_run_knows_every_setting_of_its_encoder(monkeypatch):
    """The encoder's version and its defaults are no settings of the run, and yet decide its numbers."""
    address = data_fingerprint(WHOLE)
    monkeypatch.setattr(encoder_module, "VERSION", 1_000)
    assert data_fingerprint(WHOLE) != address
    assert data_fingerprint(HEAD) != address


def test_runs_that_differ_in_training_only_share_their_data():
    for changes in ({"seed": 1}, {"gamma": 0.5}, {"dropout": "shared"}):
        other = dataclasses.replace(WHOLE, **changes)
        assert data_settings(other) == data_settings(WHOLE)
        assert data_fingerprint(other) == data_fingerprint(WHOLE)


@pytest.mark.parametrize("kept", ["learnt", "damaged"])
def test_a_vocabulary_kept_between_processes_is_the_one_learnt(kept, tmp_path):
    first = data_fingerprint(WHOLE)
    (path,) = (tmp_path / "cache").glob("wordpiece-*.npz")
    if kept == "damaged":
        path.write_bytes(b"x" * 100)
    assert data_fingerprint(WHOLE) == first


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset": "digits", "model": "distilbert-small"}, "does not fit data set 'digits'.*Texts need"),
        ({"dataset": "digits", "model": "linear", "features": "minilm-l6"}, "does not fit data set 'digits'"),
        ({"dataset": "reviews", "model": "linear"}, "model 'linear' with features '' does not fit"),
        ({"dataset": "reviews", "model": "resnet-small"}, "does not fit data set 'reviews'"),
    ],
)
def test_texts_and_images_are_not_mistaken_for_each_other(settings, message):
    for ask in (load_data, data_fingerprint):
        with pytest.raises(InputError, match=message):
            ask(RunConfig(train_size=48, test_size=24, **settings))


def test_matrices_and_shadow_models_take_no_texts():
    parameters = notebook_parameters("quick")["01_taxonomy"]
    with pytest.raises(InputError, match="data set 'reviews' has texts; expected images"):
        matrix_data(matrix_config(parameters, dataset="reviews"))
    with pytest.raises(InputError, match="data set 'reviews' has texts; expected images"):
        shadow_run(RunConfig(dataset="reviews", model="linear", shadow_size=20))


# Frozen features


def assert_features(data, encoder, tokens):
    """Undoing the standardisation by the training texts' statistics gives the encoder's features."""
    train, test = (pooled_features(encoder, part) for part in (tokens.train_inputs, tokens.test_inputs))
    std, mean = torch.std_mean(train, dim=0, correction=0)
    for found, expected in ((data.train_inputs, train), (data.test_inputs, test)):
        torch.testing.assert_close(found * std + mean, expected, rtol=1e-4, atol=1e-5)
        assert expected.std(dim=0).min() > 1e-6
    variance, mean = torch.var_mean(data.train_inputs, dim=0, correction=0)
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-2)
    torch.testing.assert_close(variance, torch.ones_like(variance), rtol=1e-2, atol=0)
    assert torch.equal(data.train_labels, tokens.train_labels)
    assert torch.equal(data.test_labels, tokens.test_labels)
    assert data.train_lengths is None


def no_encoder(monkeypatch):
    for name in ("pooled_features", "obtain_encoder"):
        monkeypatch.setattr(inputs_module, name, lambda *given, **options: pytest.fail("encoder was asked"))


def test_features_of_the_runs_own_encoder_are_standardised_and_kept(store, monkeypatch):
    head, whole = (dataclasses.replace(config, width=0, max_tokens=200) for config in (HEAD, WHOLE))
    data = load_data(head, store)
    tokens = load_data(whole)
    assert len(tokens.train_lengths.unique()) > 1  # they are read in order of length and put back
    model = initial_model(
        dataclasses.replace(whole, dtype="float32"), tokens, obtain_encoder(encoder_of(head), store)
    )
    assert_features(data, model.encoder, tokens)
    assert data.train_inputs.shape == (48, 64)
    no_encoder(monkeypatch)
    again = load_data(head, store)
    assert torch.equal(again.train_inputs, data.train_inputs)
    assert torch.equal(again.test_inputs, data.test_inputs)


def test_the_fingerprint_of_features_needs_no_features(store, monkeypatch):
    expected = load_data(HEAD, store).fingerprint
    no_encoder(monkeypatch)
    assert data_fingerprint(HEAD) == expected
    others = [dataclasses.replace(HEAD, **changes) for changes in ({"encoder_epochs": 2}, {"train_size": 50})]
    assert len({expected, data_fingerprint(WHOLE), *map(data_fingerprint, others)}) == 4


def test_features_of_the_runs_own_encoder_need_a_store():
    with pytest.raises(InputError, match="need a store"):
        load_data(HEAD)


@pytest.fixture
def toy_features(tmp_path, monkeypatch):
    monkeypatch.setenv("UNROLLING_DATA", str(tmp_path / "data"))
    network = publish(tmp_path / "data" / "toy", "bert")
    changes = {"features": "hf:toy", "max_tokens": 8, "encoder_size": 0, "encoder_epochs": 0}
    return tmp_path / "data" / "toy", network, dataclasses.replace(HEAD, **changes)


def test_features_of_a_pretrained_encoder_follow_its_weights(toy_features, monkeypatch):
    folder, network, config = toy_features
    data = load_data(config)
    tokens = load_data(dataclasses.replace(config, features="", model="hf:toy"))
    assert_features(data, network, tokens)
    publish(folder, "bert", seed=1)
    assert data_fingerprint(config) != data.fingerprint
    no_encoder(monkeypatch)
    publish(folder, "bert")
    assert data_fingerprint(config) == load_data(config).fingerprint == data.fingerprint


def test_a_feature_that_tells_nothing_is_refused(toy_features):
    """Standardised it would be 0 / 0."""
    folder, network, config = toy_features
    with torch.no_grad():
        network.encoder.layer[-1].output.LayerNorm.weight.zero_()
    network.save_pretrained(folder)
    with pytest.raises(DataError, match="a feature of 'hf:toy' is the same for all training texts"):
        load_data(config)


def test_a_pretrained_reader_must_have_room_for_the_texts(toy_features):
    *_, config = toy_features
    with pytest.raises(InputError, match="max_tokens of model 'hf:toy' must be between 1 and 8, got 512"):
        data_fingerprint(dataclasses.replace(config, max_tokens=512))


# Batches


def test_batches_hold_texts_of_similar_length_in_an_order_that_the_seed_fixes():
    lengths = load_data(WHOLE).train_lengths
    found = make_protocol(WHOLE, 48, lengths)
    for order in (found.pretraining, found.order):
        epoch = order.steps[:3]
        assert sorted(sum(epoch, ())) == list(range(48))
        spans = sorted((int(lengths[list(step)].min()), int(lengths[list(step)].max())) for step in epoch)
        assert all(longest <= shortest for (_, longest), (shortest, _) in pairwise(spans))
    assert make_protocol(WHOLE, 48, lengths) == found
    assert make_protocol(dataclasses.replace(WHOLE, seed=1), 48, lengths) != found


def test_a_run_takes_its_batches_by_the_lengths_of_its_texts(monkeypatch):
    config = dataclasses.replace(WHOLE, encoder_size=0, encoder_epochs=0, pretrain_epochs=0)
    data, given = load_data(config), []
    monkeypatch.setattr(run_module, "make_protocol", lambda *it: given.append(it) or make_protocol(*it))
    execute(config, data)
    assert given[0][:2] == (config, 48)
    assert torch.equal(given[0][2], data.train_lengths)


# Dropout


class Problem:
    """M and M' alike, and an order of batches that both see whole."""

    def __init__(self):
        self.model = TextClassifier(toy_network("distilbert", dropout=0.3).double())
        with seeded(0, "texts"):
            self.inputs, self.labels = TOKENS.repeat(4, 1), torch.randint(0, 2, (12,))
        self.order = make_batch_order(12, 4, 2, make_generator(0))

    def trained(self, dropout, *, first_step=0, model=None, retrained=None):
        """M and M' after the steps."""
        model, retrained = model or copy.deepcopy(self.model), retrained or copy.deepcopy(self.model)
        stepper = RecipeStepper(
            Recipe(), num_epochs=2, steps_per_epoch=3, seed=0, retrained=retrained, dropout=dropout
        )
        for step in range(first_step, len(self.order)):
            index = list(self.order[step])
            batch = self.inputs[index], self.labels[index]
            for trained in (model.train(), retrained.train()):
                stepper.take(trained, batch, Objective("cross_entropy"), 0.1, step)
        return model, retrained


def equal(first, second):
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return all(torch.equal(p, q) for p, q in pairs)


def test_only_independent_masks_drive_models_apart_that_see_the_same():
    problem = Problem()
    shared, shared_retrained = problem.trained("shared")
    independent, independent_retrained = problem.trained("independent")
    assert equal(shared, shared_retrained)
    assert not equal(independent, independent_retrained)
    assert equal(independent, shared)  # M does not depend on how M' draws
    for module in problem.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    off, off_retrained = problem.trained("off")
    assert equal(off, off_retrained)
    assert not equal(off, shared)


def test_masks_differ_from_step_to_step_and_leave_the_global_random_state_alone():
    model = torch.nn.Sequential(torch.nn.Linear(50, 50), torch.nn.Dropout(0.5), torch.nn.Linear(50, 2))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(1.0)
    seen = []
    model[1].register_forward_hook(lambda module, inputs, output: seen.append(output.detach().clone()))
    stepper = RecipeStepper(Recipe(), num_epochs=1, steps_per_epoch=2, seed=0, dropout="shared")
    state = torch.get_rng_state()
    batch = torch.zeros(3, 50), torch.tensor([0, 1, 0])
    for step in (0, 1, 0):
        stepper.take(model, batch, Objective("cross_entropy"), 1e-30, step)
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dropout", ["off", "shared", "independent"])
def test_a_runs_model_has_dropout_only_if_the_run_has(dropout):
    config = dataclasses.replace(WHOLE, dropout=dropout, encoder_size=0, encoder_epochs=0)
    model = initial_model(config, load_data(config))
    rates = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.0 if dropout == "off" else 0.1}


def test_dropout_changes_a_run_and_independent_masks_change_v(store):
    encoder = obtain_encoder(encoder_of(WHOLE), store)
    data = load_data(WHOLE)
    traces = {}
    for dropout in ("off", "shared", "independent"):
        config = dataclasses.replace(WHOLE, dropout=dropout)
        traces[dropout] = execute(config, data, encoder=encoder)["trace"]
    assert (
        traces["shared"]["weight_change"]
        == traces["independent"]["weight_change"]
        != traces["off"]["weight_change"]
    )
    assert traces["shared"]["v_nothing"] != traces["independent"]["v_nothing"]


def test_a_run_with_dropout_does_not_depend_on_the_callers_random_state(store):
    config, encoder = dataclasses.replace(WHOLE, dropout="shared"), obtain_encoder(encoder_of(WHOLE), store)
    traces = []
    for seed in (0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            traces.append(execute(config, load_data(config), encoder=encoder)["trace"])
    assert traces[0] == traces[1]


# The same bits


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("done", [2, 5])  # of 3 steps of pre-training and 6 from w_0 on
@pytest.mark.parametrize(
    "changes", [{"dropout": "independent", "pretraining": "retrained"}, {"dropout": "shared"}, {}]
)
def test_an_interrupted_run_goes_on_to_the_same_bits(done, changes, store, tmp_path):
    config = dataclasses.replace(WHOLE, **changes)
    options = {"encoder": obtain_encoder(encoder_of(config), store)}
    data, checkpoint = load_data(config), Checkpoint(tmp_path / "run.pt")
    expected = execute(config, data, **options)

    def stop(steps, total):
        if steps == done:
            raise Interrupted

    options |= {"checkpoint": checkpoint, "checkpoint_seconds": 0}
    with pytest.raises(Interrupted):
        execute(config, data, progress=stop, **options)
    steps = []
    assert execute(config, data, progress=lambda step, total: steps.append(step), **options) == expected
    assert steps[0] == done + 1


def test_a_run_on_texts_has_the_same_bits_on_one_and_two_threads():
    """At the book's sizes: the gradients of smaller layer norms are not split over threads."""
    changes = {"width": 0, "max_tokens": 64, "vocab_size": 400, "encoder_size": 0, "encoder_epochs": 0}
    config = dataclasses.replace(WHOLE, **changes, pretrain_epochs=0, epochs=1, sigma_max_hvps=1)
    data, threads = load_data(config), torch.get_num_threads()
    results = []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            results.append(execute(config, data))
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(threads)
    assert results[0] == results[1]


def test_one_and_two_jobs_give_the_same_records(tmp_path):
    configs = [WHOLE, HEAD]
    alone, together = (
        obtain(configs, store=Store(tmp_path / str(jobs)), device="cpu", jobs=jobs) for jobs in (1, 2)
    )
    assert [json.dumps(record.result) for record in together] == [
        json.dumps(record.result) for record in alone
    ]
    assert [record.address for record in together] == [record.address for record in alone]
    assert set(alone[0].result["encoder"]) == {"address", "weights"}
    assert "encoder" not in alone[1].result
    assert alone[1].data["description"].endswith("mean-pooled features of distilbert-small")
    assert alone[1].result["num_parameters"] == 64 * 2 + 2


def test_committed_runs_on_images_keep_their_addresses():
    records = [record for record in published_store("small") if record.data["name"] == "digits"]
    assert len(records) > 100
    for record in records:
        config = config_from(record.config)
        assert make_address(config.to_dict(), record.data["fingerprint"]) == record.address
    assert data_fingerprint(config_from(records[0].config)) == records[0].data["fingerprint"]

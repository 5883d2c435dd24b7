"""The encoder that a run starts from: its texts, its weights, and where they are kept."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys

import pytest
import torch

from unrolling import build_model, make_batch_order, make_generator, seeded
from unrolling._checks import InputError, StoreError
from unrolling.data import load_dataset
from unrolling.data.text import learn_wordpiece
from unrolling.runs import RunConfig, config_from, published_store
from unrolling.runs import encoder as encoder_module
from unrolling.runs.encoder import (
    EncoderConfig,
    encoder_of,
    encoder_texts,
    encoder_tokenizer,
    obtain_encoder,
    starts_from_encoder,
)
from unrolling.runs.inputs import load_data
from unrolling.runs.setup import initial_model
from unrolling.store import Store, make_address

TINY = RunConfig(
    dataset="reviews",
    train_size=48,
    test_size=24,
    model="distilbert-small",
    width=4,
    max_tokens=16,
    vocab_size=150,
    encoder_size=60,
    encoder_epochs=2,
)
#: Another value for everything that decides an encoder.
OTHERS = {
    "dataset": "imdb",
    "train_size": 50,
    "test_size": 25,
    "encoder_size": 61,
    "encoder_epochs": 3,
    "width": 6,
    "vocab_size": 160,
    "max_tokens": 17,
    "dtype": "float32",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("store"))
    return store, obtain_encoder(encoder_of(TINY), store)


def assert_same_weights(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name])


def test_the_encoders_texts_are_not_the_experiments():
    texts, reviews = encoder_texts(encoder_of(TINY)), load_dataset("reviews")
    tokens = load_data(dataclasses.replace(TINY, encoder_size=0, encoder_epochs=0))
    assert len(texts.train_texts) == 60
    assert len(texts.test_texts) == len(tokens.test_labels) == 24
    assert {*texts.train_texts} <= {*reviews.train_texts}
    assert not {*texts.train_texts} & {*texts.test_texts}
    place = {text: place for place, text in enumerate(reviews.train_texts)}
    assert all(
        reviews.train_labels[place[text]] == label
        for text, label in zip(texts.train_texts, texts.train_labels, strict=True)
    )


def test_texts_that_occur_twice_are_not_the_encoders_if_they_are_the_experiments(tmp_path, monkeypatch):
    monkeypatch.setenv("UNROLLING_DATA", str(tmp_path))
    monkeypatch.setenv("UNROLLING_CACHE", str(tmp_path / "cache"))
    for split, label in itertools.product(("train", "test"), ("neg", "pos")):
        folder = tmp_path / split / label
        folder.mkdir(parents=True)
        for number in range(20):  # ten different texts of a class, each twice in either split
            (folder / f"{number}.txt").write_text(f"{label} {number // 2}")
    config = EncoderConfig(
        dataset="text_folder",
        train_size=8,
        test_size=4,
        size=30,
        epochs=1,
        width=4,
        vocab_size=100,
        max_tokens=8,
    )
    everything = load_dataset("text_folder")
    used = everything.subset(8, 4, make_generator(0, "subset"))
    left = everything.more_training_data(8, 30, make_generator(0, "subset"))[0]
    experiments = {*used.train_texts, *used.test_texts}
    assert {*left} & experiments
    found = encoder_texts(config)
    assert found.train_texts == tuple(text for text in left if text not in experiments)
    assert found.test_texts == used.test_texts
    names = [found.class_names[label] for label in found.train_labels.tolist()]
    assert names == [text.split()[0] for text in found.train_texts]
    assert encoder_texts(dataclasses.replace(config, size=20)).fingerprint != found.fingerprint


def test_the_vocabulary_is_learnt_from_the_encoders_texts_alone():
    config = encoder_of(TINY)
    expected = learn_wordpiece(encoder_texts(config).train_texts, 150)
    assert encoder_tokenizer(config).to_str() == expected.to_str()
    assert encoder_tokenizer(config).get_vocab_size() == 150


def test_every_setting_has_its_address():
    config = encoder_of(TINY)
    changed = {"dataset": "imdb", "dtype": "float32"}
    configs = [config]
    for setting in dataclasses.fields(EncoderConfig):
        other = changed.get(setting.name) or 2 * getattr(config, setting.name)
        configs.append(dataclasses.replace(config, **{setting.name: other}))
    assert len({make_address(c.to_dict(), "data") for c in configs}) == len(configs)


@pytest.mark.parametrize("setting", OTHERS)
def test_a_run_hands_every_setting_to_its_encoder(setting):
    changed = dataclasses.replace(TINY, **{setting: OTHERS[setting]})
    assert encoder_of(changed) != encoder_of(TINY)


@pytest.mark.parametrize("setting", ["seed", "learning_rate", "batch_size", "gamma", "forget_batch"])
def test_the_experiments_own_settings_leave_the_encoder_alone(setting):
    assert encoder_of(dataclasses.replace(TINY, **{setting: 1})) == encoder_of(TINY)


def test_equal_settings_give_equal_weights(trained, tmp_path):
    again = obtain_encoder(encoder_of(TINY), Store(tmp_path))
    assert_same_weights(again.weights, trained[1].weights)
    assert again == dataclasses.replace(trained[1], weights=again.weights)


def test_the_record_says_how_training_went(trained):
    store, encoder = trained
    record = Store(store.root / "encoders").get(encoder.address)
    assert record.result["steps"] == 2 * 2  # two epochs of 60 texts by 32
    assert len(record.result["loss"]) == 2
    assert 0 <= record.result["accuracy"] <= 1
    assert record.config == encoder_of(TINY).to_dict()
    assert store.addresses() == []  # encoders are not among the runs


def test_a_second_call_reads_the_weights(trained, monkeypatch):
    store, encoder = trained
    monkeypatch.setattr(encoder_module, "train_encoder", lambda *given: pytest.fail("trained again"))
    again = obtain_encoder(encoder_of(TINY), store)
    assert_same_weights(again.weights, encoder.weights)
    assert (again.address, again.digest) == (encoder.address, encoder.digest)


@pytest.mark.parametrize(
    "damage", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-4] + b"xxxx")]
)
def test_weights_that_are_not_those_of_the_record_are_trained_anew(trained, damage):
    store, encoder = trained
    path = store.root / "encoders" / f"{encoder.address}.safetensors"
    whole = path.read_bytes()
    damage(path)
    again = obtain_encoder(encoder_of(TINY), store)
    assert_same_weights(again.weights, encoder.weights)
    assert path.read_bytes() == whole
    assert {file.suffix for file in path.parent.iterdir()} == {".json", ".safetensors"}


def test_a_folder_that_cannot_be_written_is_named_before_training(tmp_path, monkeypatch):
    (tmp_path / "encoders").write_text("no folder")
    monkeypatch.setattr(encoder_module, "train_encoder", lambda *given: pytest.fail("trained in vain"))
    with pytest.raises(StoreError, match="cannot write to the run store"):
        obtain_encoder(encoder_of(TINY), Store(tmp_path))


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_training_is_adamw_with_a_linear_rise_and_fall(double):
    config, data = (
        dataclasses.replace(encoder_of(TINY), epochs=5, dropout=0.0),
        load_data(dataclasses.replace(TINY, train_size=120, encoder_size=0, encoder_epochs=0)),
    )
    state = torch.get_rng_state()
    weights, _ = encoder_module.train_encoder(config, data)
    assert torch.equal(torch.get_rng_state(), state)
    with seeded(0, "encoder weights"):
        model = build_model("distilbert-small", 2, input_shape=(16,), width=4, vocab_size=150)
    order = make_batch_order(
        120, 32, 5, make_generator(0, "encoder order"), reshuffle=True, lengths=data.train_lengths
    )
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    rates = [0.5, 1, *(k / 18 for k in range(18, 0, -1))]  # of 20 steps the first two rise
    for step, rate in zip(order, rates, strict=True):
        optimizer.param_groups[0]["lr"] = 1e-3 * rate
        optimizer.zero_grad()
        logits = model(data.train_inputs[list(step)])
        torch.nn.functional.cross_entropy(logits, data.train_labels[list(step)]).backward()
        optimizer.step()
    for name, value in model.encoder.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=1e-9, atol=1e-12)


ELSEWHERE = """
import json, sys, torch
from unrolling.runs.encoder import EncoderConfig, train_encoder
from unrolling.data import load_dataset
from unrolling.data.text import encode, learn_wordpiece
settings, path = json.loads(sys.argv[1]), sys.argv[2]
texts = load_dataset("reviews").subset(settings["size"], 50, torch.Generator().manual_seed(0))
tokens = encode(texts, learn_wordpiece(texts.train_texts, 200), max_tokens=settings["max_tokens"])
torch.save(train_encoder(EncoderConfig(**settings), tokens)[0], path)
"""
#: Kernels for the oldest processors, of PyTorch itself and of its two libraries.
OLD_KERNELS = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"}


def test_other_kernels_give_the_same_weights_but_for_rounding(tmp_path):
    settings = dataclasses.asdict(encoder_of(TINY)) | {
        "size": 200,
        "epochs": 4,
        "vocab_size": 200,
        "width": 16,
    }
    found = []
    for kernels in ({}, OLD_KERNELS):
        path = tmp_path / str(len(found))
        subprocess.run(
            [sys.executable, "-c", ELSEWHERE, json.dumps(settings), str(path)],
            check=True,
            env=os.environ | kernels,
        )
        found.append(torch.load(path))
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=0, atol=1e-7)


def test_committed_runs_keep_their_encoder():
    """The precision is the run's, and came later: in float32 the address is as it was."""
    assert encoder_of(TINY).dtype == TINY.dtype == "float64"
    (record,) = Store(published_store("small").root / "encoders")
    runs = [run for run in published_store("small") if run.config.get("encoder_size")]
    assert len(runs) > 50
    for run in runs:
        settings = encoder_of(config_from(run.config)).to_dict()
        assert settings == record.config
        assert make_address(settings, record.data["fingerprint"]) == run.result["encoder"]["address"]


def test_the_encoder_has_dropout_while_it_is_trained():
    config = encoder_of(TINY)
    data = load_data(TINY)
    without, usual = (
        encoder_module.train_encoder(dataclasses.replace(config, dropout=rate), data)[0]
        for rate in (0.0, config.dropout)
    )
    assert any(not torch.equal(without[name], usual[name]) for name in usual)


def test_a_run_starts_from_the_encoder_and_a_head_of_its_own(trained):
    _, encoder = trained
    data = load_data(TINY)
    starts = [
        initial_model(dataclasses.replace(TINY, seed=seed), data, encoder).network for seed in (0, 0, 1)
    ]
    for network in starts:
        for name, value in network.base_model.state_dict().items():
            assert torch.equal(value, encoder.weights[name].double())
    first, same, other = (network.classifier.weight for network in starts)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    # The head does not depend on whether there is an encoder.
    plain = dataclasses.replace(TINY, encoder_size=0, encoder_epochs=0)
    assert torch.equal(initial_model(plain, data).network.classifier.weight, first)
    with pytest.raises(InputError, match="starts from a pretrained encoder; pass what obtain_encoder"):
        initial_model(TINY, data)


def test_which_runs_start_from_an_encoder():
    assert starts_from_encoder(TINY)
    assert not starts_from_encoder(dataclasses.replace(TINY, encoder_size=0, encoder_epochs=0))
    head = dataclasses.replace(TINY, model="linear", width=0, features="distilbert-small")
    assert not starts_from_encoder(head)
    assert encoder_of(head) == dataclasses.replace(encoder_of(TINY), width=0)
    with pytest.raises(InputError, match="no encoder of its own: its encoder_size is 0"):
        encoder_of(RunConfig(dataset="reviews"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "linear", "width": 0}, "encoder_size pretrains distilbert-small, got the model 'linear'"),
        (
            {"model": "linear", "width": 0, "features": "minilm-l6"},
            "got the model 'linear' on features of 'minilm-l6'",
        ),
        ({"encoder_epochs": 0}, "belong together, got 60 texts and 0 epochs"),
        ({"encoder_size": 0}, "belong together, got 0 texts and 2 epochs"),
        ({"train_size": 0}, "train_size 0 leaves none"),
        (
            {"model": "mlp", "features": "distilbert-small", "encoder_size": 0, "encoder_epochs": 0},
            "features of distilbert-small need an encoder",
        ),
        ({"features": "minilm-l6"}, "features are classified by a model of numbers such as linear"),
        ({"features": "resnet18", "model": "linear"}, "features must be an encoder of texts, got 'resnet18'"),
        ({"shadow_size": 20}, "shadow_size is for images; for texts it must be 0, got 20"),
        ({"recipe": "full"}, "the recipe 'full' crops and flips images"),
        ({"dropout": "of"}, r"unknown dropout 'of'.*Did you mean 'off'"),
        (
            {"model": "mlp", "encoder_size": 0, "encoder_epochs": 0, "dropout": "shared"},
            "dropout is for models that read texts, got 'shared' for 'mlp'",
        ),
        ({"max_tokens": 2}, "max_tokens must be between 3 and"),
        ({"vocab_size": 4}, "vocab_size must be between 5 and"),
    ],
)
def test_settings_that_do_not_go_together_are_explained(settings, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(TINY, **settings)


def test_an_encoder_of_more_texts_than_there_are_is_refused():
    config = dataclasses.replace(TINY, encoder_size=4000)
    with pytest.raises(InputError, match="num_more must be at most 3152"):
        load_data(config)

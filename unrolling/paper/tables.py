"""The numbers of Tables 1 to 4 and every correlation, as the final version of the paper prints them."""

from importlib.resources import files

import pandas as pd

from unrolling._checks import check_choice

#: name -> what it holds.
REPORTED: dict[str, str] = {
    "table1": "e and accuracy over gamma: CIFAR-10, ResNet-18 and VGG-19, N = 10 epochs, t = 1 epoch",
    "table2": "e, v and accuracy over gamma: DistilBERT on IMDB, N = 3 epochs, t = 1 epoch",
    "table3": "e and accuracy over lambda and N: l2 regularisation, four settings",
    "table4": "e and accuracy over gamma and N: SD loss, four settings",
    "correlations": "every correlation that the text or a caption prints",
}


def reported_table(name: str) -> pd.DataFrame:
    """Return a table of the paper in long form, a row per cell group.

    Columns of the tables: ``pretrain_epochs`` (N), ``regularizer`` (``sd`` or ``l2``), ``strength`` (gamma or
    lambda *in the paper's units*, see :func:`unrolling.losses.gamma_from_released`), ``dataset``, ``model``,
    ``unlearning_error``, ``accuracy`` in percent, and for Table 2 ``verification_error``. An empty cell of
    the paper is NaN. ``correlations`` has a row per printed value, with the figure and what it relates.

    Args:
        name: A key of :data:`REPORTED`.
    """
    check_choice("table", name, REPORTED)
    with files("unrolling.paper").joinpath("tables", f"{name}.csv").open() as file:
        return pd.read_csv(file)

"""Numbers reach the sentences of a page under the page's prefix, and nothing is shown."""

import numpy as np
import torch

from unrolling.page import glue_all


def test_every_number_is_glued_as_pythons_own_under_the_prefix_and_not_shown(monkeypatch):
    glued = []
    monkeypatch.setattr("unrolling.page.glued.glue", lambda *it, **options: glued.append((*it, options)))
    glue_all("error", {"low": np.float64(0.5), "k": np.int64(3), "t": torch.tensor(2.0), "word": "none"})
    hidden = {"display": False}
    assert glued == [
        ("error-low", 0.5, hidden),
        ("error-k", 3, hidden),
        ("error-t", 2.0, hidden),
        ("error-word", "none", hidden),
    ]
    assert [type(value) for _, value, _ in glued] == [float, int, float, str]

"""Generate the synthetic reviews: ``python -m unrolling.data.reviews.make`` writes the corpus anew."""

import lzma
from pathlib import Path

import numpy as np

CORPUS = Path(__file__).with_name("reviews.tsv.xz")
NUM_TRAIN, NUM_TEST = 3200, 800
WORDS = range(10, 41)  # how many a review may have
NEGATED, CONTRASTED = 0.15, 0.2  # shares of the clauses and of the judgements


def _words(*lines: str) -> list[str]:
    return " ".join(lines).split()


# Few enough that every word is seen with and without a negation.
ADJECTIVES = {
    "neg": _words(
        "awful bland confused dreary empty forgettable lame lifeless mediocre pointless predictable shallow",
        "stale tedious tiresome wooden",
    ),
    "pos": _words(
        "amusing brilliant clever delightful engaging fascinating funny heartfelt impressive lively",
        "memorable original powerful sharp superb warm",
    ),
}
SUBJECTS = [
    *(
        f"the {noun} was"
        for noun in _words("acting plot dialogue music pacing ending script story cast film")
    ),
    *(f"the {noun} were" for noun in _words("actors songs effects jokes stunts")),
    "what I saw was",
]
DEGREES = ["", "", "", "rather", "somewhat", "fairly", "quite", "a little", "very", "truly", "simply"]
NEGATIONS = [
    "{subject} not at all {adjective}",
    "{subject} never {adjective}",
    "{subject} far from {adjective}",
    "{subject} anything but {adjective}",
]
# The last clause decides.
CONTRASTS = [
    "{other}, but {clause}",
    "{other}, and yet {clause}",
    "although {other}, {clause}",
    "even if {other}, {clause}",
]
NEUTRAL = [
    "I saw it {when} with {whom}",
    "{whom} picked it {when}",
    "we watched it {when} {where}",
    "it runs for {length} and is set {place}",
    "most of it takes place {place}",
    "I had read the book {when}",
    "the version I saw {where} lasted {length}",
    "it was shown {where} {when}",
]
FILLERS = {
    "when": ["last week", "on a Sunday", "late at night", "on a rainy evening", "last winter", "yesterday",
             "a month ago", "during the holidays"],
    "whom": ["my sister", "a friend", "my parents", "two colleagues", "my neighbour", "our children",
             "my old teacher"],
    "where": ["at home", "on a plane", "in a small cinema", "at a festival", "on television", "in a hotel",
              "at a friend's house"],
    "length": ["ninety minutes", "two hours", "almost three hours", "just over an hour"],
    "place": ["in a village", "in Paris", "on a ship", "in the future", "in a hospital", "during a war",
              "in a desert", "at a boarding school"],
}  # fmt: skip


class _Draws:
    """Uniform choices from a stream that is frozen for good, as that of RandomState is."""

    def __init__(self, seed: int) -> None:
        self._state = np.random.RandomState(seed)

    def one_of(self, choices: list[str]) -> str:
        return choices[self._state.randint(len(choices))]

    def happens(self, probability: float) -> bool:
        return self._state.random_sample() < probability


def _clause(draws: _Draws, label: str) -> str:
    """Return a judgement: with a word of its own polarity, or with one of the other that is negated."""
    subject = draws.one_of(SUBJECTS)
    if draws.happens(NEGATED):
        adjective = draws.one_of(ADJECTIVES[_opposite(label)])
        return draws.one_of(NEGATIONS).format(subject=subject, adjective=adjective)
    words = (subject, draws.one_of(DEGREES), draws.one_of(ADJECTIVES[label]))
    return " ".join(word for word in words if word)


def _opposite(label: str) -> str:
    return {"neg": "pos", "pos": "neg"}[label]


def _judgement(draws: _Draws, label: str) -> str:
    if not draws.happens(CONTRASTED):
        return _clause(draws, label)
    other, clause = _clause(draws, _opposite(label)), _clause(draws, label)
    return draws.one_of(CONTRASTS).format(other=other, clause=clause)


def _neutral(draws: _Draws) -> str:
    fillers = {name: draws.one_of(choices) for name, choices in FILLERS.items()}
    return draws.one_of(NEUTRAL).format(**fillers)


def _review(draws: _Draws, label: str) -> str:
    sentences = [_neutral(draws)] if draws.happens(0.7) else []
    sentences += [_judgement(draws, label) for _ in range(2 if draws.happens(0.5) else 1)]
    if draws.happens(0.3):
        sentences.append(_neutral(draws))
    return " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences)


def generate(seed: int = 0) -> list[tuple[str, str, str]]:
    """Return (split, label, text) of every review; labels alternate and no text occurs twice."""
    draws = _Draws(seed)
    reviews: dict[str, str] = {}
    while len(reviews) < NUM_TRAIN + NUM_TEST:
        label = "neg" if len(reviews) % 2 == 0 else "pos"
        text = _review(draws, label)
        if text not in reviews and len(text.split()) in WORDS:
            reviews[text] = label
    splits = ["train"] * NUM_TRAIN + ["test"] * NUM_TEST
    return [(split, label, text) for split, (text, label) in zip(splits, reviews.items(), strict=True)]


def write(path: Path = CORPUS) -> None:
    """Write the corpus, one tab-separated review a line, xz-compressed."""
    lines = "".join("\t".join(review) + "\n" for review in generate())
    path.write_bytes(lzma.compress(lines.encode(), preset=9))


if __name__ == "__main__":
    write()

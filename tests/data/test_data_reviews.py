"""The synthetic reviews: the committed file is what the script makes, and a label is what the words say."""

import lzma
import re
from pathlib import Path

import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from unrolling.data import load_dataset
from unrolling.data.reviews import make
from unrolling.data.text import shared_texts

FOLDER = Path(make.__file__).parent
README = (FOLDER / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def reviews():
    return load_dataset("reviews")


def labelled(reviews):
    return list(zip(reviews.train_texts, reviews.train_labels.tolist(), strict=True)) + list(
        zip(reviews.test_texts, reviews.test_labels.tolist(), strict=True)
    )


def test_the_script_makes_the_committed_file(tmp_path):
    make.write(tmp_path / "again.tsv.xz")
    # The text is compared: another version of liblzma may compress it to other bytes.
    committed, again = (lzma.decompress(p.read_bytes()) for p in (make.CORPUS, tmp_path / "again.tsv.xz"))
    assert again == committed
    assert make.CORPUS.stat().st_size < 300_000


def test_the_corpus_never_changes(reviews):
    # Stored runs are addressed by this fingerprint; it is that of the first corpus that was released.
    assert reviews.fingerprint == "146f82b533163076"
    assert make.generate(1) != make.generate(0)


def test_splits_are_balanced_and_no_text_occurs_twice(reviews):
    assert reviews.class_names == ("neg", "pos")
    assert reviews.train_labels.bincount().tolist() == [1600, 1600]
    assert reviews.test_labels.bincount().tolist() == [400, 400]
    assert shared_texts(reviews) == (0, 0, 3200, 800, 0)
    lengths = [len(text.split()) for text, _ in labelled(reviews)]
    assert (min(lengths), max(lengths)) == (10, 40)


def test_every_judgement_agrees_with_the_label_once_negation_and_the_last_clause_are_heeded(reviews):
    """Read the reviews with no help from the script but its two lists of adjectives."""
    polarity = {word: label for label, name in enumerate(("neg", "pos")) for word in make.ADJECTIVES[name]}
    adjective = re.compile(rf"\b({'|'.join(polarity)})\b")
    negation = re.compile(r"\b(not|never|far from|anything but)\b")
    for text, label in labelled(reviews):
        judged = [sentence for sentence in text.split(".") if adjective.search(sentence)]
        assert judged, text
        for sentence in judged:
            *before, last = adjective.finditer(sentence)
            clause = sentence[before[-1].end() if before else 0 : last.start()]
            assert (polarity[last[0]] != bool(negation.search(clause))) == bool(label), text


def test_a_bag_of_words_gets_what_the_readme_says(reviews):
    counts = CountVectorizer()
    model = LogisticRegression(max_iter=1000).fit(
        counts.fit_transform(reviews.train_texts), reviews.train_labels
    )
    accuracy = model.score(counts.transform(reviews.test_texts), reviews.test_labels)
    (stated,) = re.findall(r"gets (\d+) % of the test reviews right", README)
    assert accuracy == pytest.approx(int(stated) / 100, abs=0.015)


def test_the_readme_states_the_sizes_and_shares_of_the_script():
    for words in (
        f"{make.NUM_TRAIN:,} training",
        f"{make.NUM_TRAIN + make.NUM_TEST:,} reviews",
        f"{make.NUM_TEST} test reviews",
        f"{make.WORDS[0]} to {make.WORDS[-1]} words",
        f"{100 * make.NEGATED:.0f} % of the clauses",
        f"{100 * make.CONTRASTED:.0f} % of the judgements",
    ):
        assert words in README.replace("\n", " ")


def test_everything_says_that_they_are_synthetic(reviews):
    assert README.splitlines()[2].split(":")[0] == "These 4,000 reviews are SYNTHETIC"
    assert "synthetic" in reviews.description

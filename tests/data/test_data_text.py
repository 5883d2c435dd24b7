"""Texts as data: the same choices as of images, a vocabulary others read alike, padding done by hand."""

import numpy as np
import pytest
import torch
from transformers import BertTokenizerLegacy

from unrolling._checks import InputError
from unrolling.data import TextDataset, load_dataset
from unrolling.data.text import encode, learn_wordpiece, shared_texts, text_dataset, without_shared
from unrolling.seeding import make_generator

TEXTS = (
    "The plot was thin.",
    "A fine, fine film!",
    "It was fine; the end wasn't.",
    "Naïve plot",
    "Thin film",
)


def toy(train=TEXTS, test=("fine plot", "the end", "was it the thin film or was it the plot"), **changes):
    def labels(texts):
        return torch.arange(len(texts)) % 2

    dataset = text_dataset("toy", "a toy", ("neg", "pos"), (train, labels(train)), (test, labels(test)))
    return TextDataset(**(vars(dataset) | changes))


# ---- TextDataset ----


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train_labels": torch.zeros(4, dtype=torch.int64)},
            r"one label per train input .*5 texts .*\(4,\)",
        ),
        (
            {"test_texts": (), "test_labels": torch.zeros(0, dtype=torch.int64)},
            "one label per test .*0 texts",
        ),
        ({"train_labels": torch.zeros(5)}, "train labels must be int64, got torch.float32"),
        ({"test_labels": torch.full((3,), 2)}, r"test labels must be in 0..1 \(2 class names\), got 2..2"),
        ({"class_names": ("neg",)}, "at least two classes"),
        ({"train_texts": (*TEXTS[:4], None)}, "train text 4 must be a str, got NoneType"),
        ({"test_texts": (b"fine", "a", "b")}, "test text 0 must be a str, got bytes"),
    ],
)
def test_texts_that_do_not_fit_together_are_refused(changes, message):
    with pytest.raises(InputError, match=f"toy: .*{message}"):
        toy(**changes)


def test_the_same_examples_are_chosen_as_of_images():
    digits = load_dataset("digits")
    texts = text_dataset(
        "numbers",
        "the digits' positions",
        digits.class_names,
        (list(map(str, range(1440))), digits.train_labels),
        (list(map(str, range(357))), digits.test_labels),
    )
    images, words = (data.subset(100, 40, make_generator(0, "subset")) for data in (digits, texts))
    assert torch.equal(digits.train_inputs[list(map(int, words.train_texts))], images.train_inputs)
    assert torch.equal(digits.test_inputs[list(map(int, words.test_texts))], images.test_inputs)
    assert torch.equal(words.train_labels, images.train_labels)
    assert words.description == images.description.replace(digits.description, texts.description)
    assert words.fingerprint not in {images.fingerprint, texts.fingerprint}

    inputs, labels = digits.more_training_data(100, 50, make_generator(0, "subset"))
    more, more_labels = texts.more_training_data(100, 50, make_generator(0, "subset"))
    assert torch.equal(digits.train_inputs[list(map(int, more))], inputs)
    assert torch.equal(more_labels, labels)
    assert not set(more) & set(words.train_texts)


def test_more_texts_than_there_are_are_refused():
    with pytest.raises(InputError, match="num_train must be between 1 and 5, got 6"):
        toy().subset(6, 1, make_generator(0))
    with pytest.raises(InputError, match="num_more must be at most 2, what 3 of 5"):
        toy().more_training_data(3, 3, make_generator(0))


def test_the_fingerprint_sees_every_letter_label_and_the_order():
    changed = (*TEXTS[:4], "Thin film.")
    flipped = 1 - toy().train_labels
    moved = (TEXTS[:2], torch.zeros(2, dtype=torch.int64)), (TEXTS[2:], torch.zeros(3, dtype=torch.int64))
    fingerprints = {
        toy().fingerprint,
        toy(changed).fingerprint,
        toy(TEXTS[::-1]).fingerprint,
        without_shared(toy(TEXTS, TEXTS[3:]), "less").fingerprint,
        text_dataset("a", "", ("a", "b"), (TEXTS, flipped), (TEXTS, flipped)).fingerprint,
        text_dataset("a", "", ("a", "b"), (TEXTS, 1 - flipped), (TEXTS, flipped)).fingerprint,
        text_dataset("a", "", ("a", "b"), *moved).fingerprint,
        text_dataset("a", "", ("a", "b"), *moved[::-1]).fingerprint,
    }
    assert len(fingerprints) == 8
    assert toy().fingerprint == toy().fingerprint


def test_shared_texts_are_counted_and_left_out():
    dataset = text_dataset(
        "toy",
        "a toy",
        ("neg", "pos"),
        (["a", "a", "b", "c", "d"], torch.tensor([0, 0, 1, 0, 1])),
        (["a", "c", "c", "e"], torch.tensor([0, 0, 1, 1])),
    )
    counts = shared_texts(dataset)
    assert counts._asdict() == {
        "train": 3, "test": 3, "unique_train": 4, "unique_test": 3, "both_labels": 1
    }  # fmt: skip
    less = without_shared(dataset, "less")
    assert (less.name, less.train_texts, less.train_labels.tolist()) == ("less", ("b", "d"), [1, 1])
    assert (less.test_texts, less.class_names) == (dataset.test_texts, dataset.class_names)
    assert less.description == "a toy, without 3 training texts that are also test texts"
    assert shared_texts(less)[:2] == (0, 0)


# ---- the vocabulary ----


def test_transformers_reads_the_vocabulary_alike(tmp_path):
    reviews = load_dataset("reviews")
    tokenizer = learn_wordpiece(reviews.train_texts, 300)
    assert tokenizer.get_vocab_size() == 300
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.token_to_id)
    assert vocabulary[:4] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    other = BertTokenizerLegacy(str(tmp_path / "vocab.txt"))  # the original algorithm, in Python
    for text in (*reviews.test_texts[:100], "Naïve\u200b café—日本!\x00 zzz", "x" * 101, "", " "):
        assert tokenizer.encode(text).ids == other(text)["input_ids"], text


def test_the_vocabulary_does_not_depend_on_the_run_or_the_order_of_texts():
    # Left alone, the library gives another vocabulary at every call, also in one process.
    texts = load_dataset("reviews").train_texts[:300]
    learnt = {learn_wordpiece(texts[::step], 250).to_str() for step in (1, 1, 1, -1, -1)}
    assert len(learnt) == 1


def test_frequent_words_become_tokens_and_characters_are_never_unknown():
    tokenizer = learn_wordpiece(["film film film film quiz"], 19)
    assert tokenizer.encode("Film").tokens == ["[CLS]", "film", "[SEP]"]
    assert tokenizer.encode("quif").tokens == ["[CLS]", "[UNK]", "[SEP]"]  # no f inside a word was seen
    assert tokenizer.encode("quiz").tokens[1:-1] == ["q", "##u", "##i", "##z"]


def test_a_vocabulary_must_hold_the_characters():
    # 4 special tokens, f i l m, and i l m inside a word.
    assert learn_wordpiece(["film"], 11).get_vocab_size() == 11
    with pytest.raises(InputError, match="at least 11 for texts of 4 different characters, got 10"):
        learn_wordpiece(["film"], 10)
    with pytest.raises(InputError, match="whole number"):
        learn_wordpiece(["film"], 11.0)


# ---- texts as numbers ----


@pytest.fixture(scope="module")
def tokenizer():
    return learn_wordpiece(TEXTS, 120)


def test_inputs_are_the_token_numbers_padded_on_the_right(tokenizer):
    dataset = encode(toy(), tokenizer, pad=7)
    rows = [tokenizer.encode(text).ids for text in TEXTS]
    tests = [tokenizer.encode(text).ids for text in toy().test_texts]
    longest = max(map(len, rows + tests))
    assert dataset.train_inputs.dtype == torch.int32
    assert dataset.train_inputs.tolist() == [row + [7] * (longest - len(row)) for row in rows]
    assert dataset.train_lengths.tolist() == list(map(len, rows))
    assert torch.equal(dataset.train_labels, toy().train_labels)
    assert (dataset.name, dataset.class_names, dataset.description) == ("toy", ("neg", "pos"), "a toy")


def test_test_texts_are_in_order_of_length_with_their_labels(tokenizer):
    texts = ("the thin film was fine", "film", "fine film", "the end of it", "plot")
    dataset = encode(toy(test=texts), tokenizer)
    lengths = (dataset.test_inputs != 0).sum(1).tolist()
    assert lengths == sorted(lengths)
    expected = {tuple(tokenizer.encode(text).ids): i % 2 for i, text in enumerate(texts)}
    rows = [tuple(row[:length]) for row, length in zip(dataset.test_inputs.tolist(), lengths, strict=True)]
    assert dict(zip(rows, dataset.test_labels.tolist(), strict=True)) == expected


def test_a_long_text_keeps_its_beginning_and_the_last_special_token(tokenizer):
    text = "the plot was fine " * 25_000  # 100,000 words
    row = encode(toy(test=("film", text)), tokenizer).test_inputs[1].tolist()
    words = [tokenizer.token_to_id(word) for word in ("the", "plot", "was", "fine")]
    assert None not in words
    assert row == [2, *np.resize(words, 510).tolist(), 3]
    short = encode(toy(), tokenizer, max_tokens=4)
    assert short.train_inputs.shape == (5, 4)
    assert short.train_inputs[:, [0, 3]].tolist() == [[2, 3]] * 5
    assert short.train_lengths.tolist() == [4] * 5


def test_odd_texts_have_a_documented_form(tokenizer):
    texts = ("", "   ", "\0", "film", "fi\0lm", "[SEP]", "[PAD] film")
    dataset = encode(toy(texts), tokenizer)
    film = tokenizer.token_to_id("film")
    rows = [row[:n] for row, n in zip(dataset.train_inputs.tolist(), dataset.train_lengths, strict=True)]
    assert rows[:3] == [[2, 3]] * 3
    assert rows[3:5] == [[2, film, 3]] * 2
    for row in rows[5:]:  # a special token's name is text
        assert set(row[1:-1]).isdisjoint({0, 2, 3})
    with pytest.raises(InputError, match="max_tokens must be between 3 and 2147483647, got 2"):
        encode(toy(), tokenizer, max_tokens=2)


def test_encoding_leaves_the_tokenizer_alone_and_heeds_no_state_of_it(tokenizer):
    expected, before = encode(toy(), tokenizer), tokenizer.to_str()
    assert tokenizer.to_str() == before
    other = type(tokenizer).from_str(before)
    other.enable_truncation(5)
    other.enable_padding(length=30)
    again = encode(toy(), other)
    assert torch.equal(again.train_inputs, expected.train_inputs)
    assert again.fingerprint == expected.fingerprint


def test_the_fingerprint_sees_texts_tokenizer_length_and_source(tokenizer):
    fingerprints = {
        encode(toy(), tokenizer).fingerprint,
        encode(toy(TEXTS[::-1]), tokenizer).fingerprint,
        encode(toy(), learn_wordpiece(TEXTS, 40)).fingerprint,
        encode(toy(), tokenizer, max_tokens=511).fingerprint,
        encode(toy(), tokenizer, source="weights").fingerprint,
        toy().fingerprint,
    }
    assert len(fingerprints) == 6


def test_a_part_of_encoded_texts_keeps_their_lengths(tokenizer):
    part = encode(toy(), tokenizer).subset(3, 1, make_generator(0, "subset"))
    assert part.train_lengths.tolist() == (part.train_inputs != 0).sum(1).tolist()


def test_lengths_must_belong_to_the_examples(tokenizer):
    dataset = encode(toy(), tokenizer)
    with pytest.raises(
        InputError, match=r"toy: expected one length per train input, a tensor, got \(4,\) for 5 inputs"
    ):
        type(dataset)(**(vars(dataset) | {"train_lengths": torch.ones(4)}))


@pytest.mark.parametrize(
    ("texts", "size", "message"),
    [
        ("a b", 10, "texts must be several texts"),
        (None, 10, "texts must be several texts"),
        ([1, 2], 10, r"texts must be texts, got 1 \(int\)"),
        (["a\ud800"], 10, "texts must be texts"),
        (["a b"], 10**12, "vocab_size must be between 1 and 1000000"),
        (["a b"], "10", "vocab_size must be a whole number"),
    ],
)
def test_a_vocabulary_that_cannot_be_learnt_is_one_error(texts, size, message):
    with pytest.raises(InputError, match=message):
        learn_wordpiece(texts, size)

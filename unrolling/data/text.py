"""Texts that wait for a tokeniser, a vocabulary learnt from them, and texts as numbers."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unrolling._checks import DataError, InputError, check_integer, shown
from unrolling.data.dataset import (
    Dataset,
    check_labels,
    choose_more,
    choose_subset,
    content_fingerprint,
    subset_description,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: Word pieces at most of a vocabulary; BERT's has 30,522.
LARGEST_VOCABULARY = 1_000_000
_SURROGATE = re.compile("[\ud800-\udfff]")  # what stands for bytes that are no UTF-8
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")  # numbers 0 to 3


@dataclass(frozen=True, eq=False)
class TextDataset:
    """Labelled texts with a test set; ``unrolling.data.text.encode`` makes a :class:`~unrolling.Dataset`.

    Attributes:
        name: The name it was loaded by.
        train_texts: The training texts.
        train_labels: int64 class numbers of shape (train,).
        test_texts: The test texts.
        test_labels: int64 class numbers of shape (test,).
        class_names: The name of every class, in the order of the labels.
        fingerprint: 16 hex digits of the SHA-256 of the texts and labels, in their order.
        description: One line that says what the data are, fit for a caption.
    """

    name: str
    train_texts: tuple[str, ...] = field(repr=False)
    train_labels: Tensor = field(repr=False)
    test_texts: tuple[str, ...] = field(repr=False)
    test_labels: Tensor = field(repr=False)
    class_names: tuple[str, ...] = field(repr=False)
    fingerprint: str
    description: str

    def __post_init__(self) -> None:
        for part, texts, labels in (
            ("train", self.train_texts, self.train_labels),
            ("test", self.test_texts, self.test_labels),
        ):
            if not isinstance(texts, tuple | list):
                raise InputError(f"{self.name}: {part} texts must be a tuple, got {shown(texts)}.")
            check_labels(self.name, part, len(texts), labels, self.class_names, f"{len(texts)} texts")
            for i, text in enumerate(texts):
                if not isinstance(text, str):
                    raise InputError(
                        f"{self.name}: {part} text {i} must be a str, got {type(text).__name__}."
                    )

    @property
    def num_classes(self) -> int:
        """Number of classes, c."""
        return len(self.class_names)

    def subset(self, num_train: int, num_test: int, generator: torch.Generator) -> "TextDataset":
        """Return a random part in which classes keep their shares, as :meth:`~unrolling.Dataset.subset` does.

        Raises:
            InputError: If more texts are asked for than there are.
        """
        train, test = choose_subset(self.train_labels, self.test_labels, num_train, num_test, generator)
        return replace(
            self,
            train_texts=_chosen(self.train_texts, train),
            train_labels=self.train_labels[train],
            test_texts=_chosen(self.test_texts, test),
            test_labels=self.test_labels[test],
            fingerprint=content_fingerprint(self.fingerprint, train, test),
            description=subset_description(self, num_train, num_test),
        )

    def more_training_data(
        self, num_train: int, num_more: int, generator: torch.Generator
    ) -> tuple[tuple[str, ...], Tensor]:
        """Return texts and labels that :meth:`subset` leaves out, as :class:`~unrolling.Dataset` does.

        Raises:
            InputError: If more texts are asked for than there are besides the subset.
        """
        index = choose_more(self.train_labels, num_train, num_more, generator)
        return _chosen(self.train_texts, index), self.train_labels[index]


def _chosen(texts: Sequence[str], index: Tensor) -> tuple[str, ...]:
    return tuple(texts[i] for i in index.tolist())


class SharedTexts(NamedTuple):
    """How often a text occurs more than once, and where.

    Attributes:
        train: Training texts that occur in the test set as well.
        test: Test texts that occur in the training set as well.
        unique_train: Different training texts.
        unique_test: Different test texts.
        both_labels: Different texts that occur with more than one label.
    """

    train: int
    test: int
    unique_train: int
    unique_test: int
    both_labels: int


def shared_texts(dataset: TextDataset) -> SharedTexts:
    """Count the texts that the splits share and those that occur more than once, letter by letter."""
    train, test = set(dataset.train_texts), set(dataset.test_texts)
    labelled = set(zip(dataset.train_texts, dataset.train_labels.tolist(), strict=True))
    labelled |= set(zip(dataset.test_texts, dataset.test_labels.tolist(), strict=True))
    return SharedTexts(
        train=sum(text in test for text in dataset.train_texts),
        test=sum(text in train for text in dataset.test_texts),
        unique_train=len(train),
        unique_test=len(test),
        both_labels=sum(count > 1 for count in Counter(text for text, _ in labelled).values()),
    )


def without_shared(dataset: TextDataset, name: str) -> TextDataset:
    """Return the data set called ``name`` without the training texts that are test texts as well."""
    test = set(dataset.test_texts)
    keep = torch.tensor([text not in test for text in dataset.train_texts])
    index = keep.nonzero().squeeze(1)
    return text_dataset(
        name,
        f"{dataset.description}, without {len(keep) - len(index):,} training texts that are also test texts",
        dataset.class_names,
        (_chosen(dataset.train_texts, index), dataset.train_labels[index]),
        (dataset.test_texts, dataset.test_labels),
    )


def text_dataset(
    name: str,
    description: str,
    class_names: tuple[str, ...],
    train: tuple[Sequence[str], Tensor],
    test: tuple[Sequence[str], Tensor],
) -> TextDataset:
    """Return texts and int64 labels as a data set with a fingerprint."""
    return TextDataset(
        name=name,
        train_texts=tuple(train[0]),
        train_labels=train[1],
        test_texts=tuple(test[0]),
        test_labels=test[1],
        class_names=class_names,
        fingerprint=content_fingerprint(*train[0], train[1], *test[0], test[1]),
        description=description,
    )


def learn_wordpiece(texts: Iterable[str], vocab_size: int) -> "Tokenizer":
    """Learn a lower-case WordPiece vocabulary; words are split as BERT's are.

    The tokens ``[PAD]``, ``[UNK]``, ``[CLS]``, ``[SEP]`` are numbers 0 to 3, and a text becomes
    ``[CLS] text [SEP]``. The same texts, in any order, give the same vocabulary.

    Args:
        texts: What to learn from.
        vocab_size: Largest number of tokens. The four are included, and every character: once, and once more
            if it occurs inside a word.

    Raises:
        InputError: If the characters alone need more tokens.
        DataError: If ``tokenizers`` is missing.
    """
    tokenizers = _tokenizers()
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise InputError(f"texts must be several texts, as in a list, got {shown(texts)}.")
    texts = list(texts)
    for text in texts:
        if not isinstance(text, str) or (not text.isascii() and _SURROGATE.search(text)):
            raise InputError(f"texts must be texts, got {shown(text)} ({type(text).__name__}) among them.")
    check_integer("vocab_size", vocab_size, minimum=1, maximum=LARGEST_VOCABULARY)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    words = {word for text in texts for word in tokenizer.normalizer.normalize_str(text).split()}
    pieces = {piece for word in words for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(word)}
    characters, inside = (sorted(set("".join(part))) for part in (pieces, {piece[1:] for piece in pieces}))
    # The library numbers characters in the order of a hash table that differs from process to process, and
    # breaks ties between merges by these numbers. Naming all characters beforehand fixes both.
    first = [*_SPECIAL, *characters, *(f"##{character}" for character in inside)]
    if vocab_size < len(first):
        raise InputError(
            f"vocab_size must be at least {len(first)} for texts of {len(characters)} different characters, "
            f"got {vocab_size}."
        )
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=first, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    # Trained, every character is a special token; only the four are to be.
    learnt = tokenizers.Tokenizer(
        tokenizers.models.WordPiece(tokenizer.get_vocab(), unk_token="[UNK]", max_input_chars_per_word=100)
    )
    learnt.normalizer, learnt.pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
    learnt.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    learnt.decoder = tokenizers.decoders.WordPiece()
    learnt.add_special_tokens(list(_SPECIAL))
    return learnt


def encode(
    dataset: TextDataset,
    tokenizer: "Tokenizer",
    *,
    max_tokens: int = 512,
    pad: int = 0,
    source: str = "",
) -> Dataset:
    """Return the texts as token numbers, with the training texts' lengths.

    Inputs are int32 of shape (texts, longest), padded on the right. A longer text keeps its beginning and
    its last special token; of an empty one only the special tokens remain; a special token's name in a text
    is text. Test texts are put in order of length, so that batches carry little padding; accuracy does not
    depend on their order.

    Args:
        dataset: The texts.
        tokenizer: Splits and numbers them; its own truncation and padding are left aside.
        max_tokens: Largest number of tokens of a text, special ones included.
        pad: The number that fills the shorter texts.
        source: What else decides what the numbers mean, such as a hash of pretrained weights. It enters the
            fingerprint, along with the texts, the tokeniser and ``max_tokens``.

    Raises:
        InputError: If ``max_tokens`` leaves no room for text.
        DataError: If ``tokenizers`` is missing.
    """
    fingerprint = encoded_fingerprint(dataset, tokenizer, max_tokens=max_tokens, source=source)
    tokenizer = _plain(tokenizer)
    least = tokenizer.num_special_tokens_to_add(False) + 1
    check_integer("max_tokens", max_tokens, minimum=least, maximum=2**31 - 1)
    check_integer("pad", pad, maximum=2**31 - 1)
    tokenizer.enable_truncation(max_tokens)
    tokenizer.encode_special_tokens = True
    train, test = _numbers(tokenizer, dataset.train_texts), _numbers(tokenizer, dataset.test_texts)
    order = sorted(range(len(test)), key=lambda i: len(test[i]))
    longest = max(map(len, train + test))
    return Dataset(
        name=dataset.name,
        train_inputs=_padded(train, longest, pad),
        train_labels=dataset.train_labels,
        test_inputs=_padded([test[i] for i in order], longest, pad),
        test_labels=dataset.test_labels[order],
        class_names=dataset.class_names,
        fingerprint=fingerprint,
        description=dataset.description,
        train_lengths=torch.tensor([len(numbers) for numbers in train]),
    )


def encoded_fingerprint(
    dataset: TextDataset, tokenizer: "Tokenizer", *, max_tokens: int = 512, source: str = ""
) -> str:
    """Return the fingerprint of what :func:`encode` returns, without splitting a text."""
    if not isinstance(dataset, TextDataset):
        raise InputError(f"dataset must be a TextDataset, got {type(dataset).__name__}.")
    return content_fingerprint(dataset.fingerprint, _plain(tokenizer).to_str(), str(max_tokens), source)


def _plain(tokenizer: "Tokenizer") -> "Tokenizer":
    if not isinstance(tokenizer, _tokenizers().Tokenizer):
        raise InputError(f"tokenizer must be one of the tokenizers library, got {type(tokenizer).__name__}.")
    # A copy, because truncation is a state of the tokeniser.
    copy = _tokenizers().Tokenizer.from_str(tokenizer.to_str())
    copy.no_padding()
    copy.no_truncation()
    return copy


def _numbers(tokenizer: "Tokenizer", texts: Sequence[str]) -> list[np.ndarray]:
    parts = (texts[i : i + 1000] for i in range(0, len(texts), 1000))  # an encoding is much larger than this
    return [
        np.array(encoding.ids, dtype=np.int32)
        for part in parts
        for encoding in tokenizer.encode_batch_fast(part)
    ]


def _padded(rows: Sequence[np.ndarray], length: int, pad: int) -> Tensor:
    padded = np.full((len(rows), length), pad, dtype=np.int32)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return torch.from_numpy(padded)


def _tokenizers():
    try:
        import tokenizers
    except ImportError as error:
        raise DataError("Texts are split by tokenizers. Run: pip install 'unrolling[text]'") from error
    return tokenizers

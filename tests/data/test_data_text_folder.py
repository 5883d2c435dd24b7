"""Folders of texts: what is read and in which order; every kind of malformed text is one clear error."""

import pytest
import torch
from trees import overwrite_unnoticed, without, write_archive, write_tree

from unrolling._checks import DataError
from unrolling.data import find_datasets, load_dataset


@pytest.fixture(autouse=True)
def clean_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("UNROLLING_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def files():
    """Two training texts and a test text of each of three classes, in the order of the labels."""
    return {
        f"{split}/{label}/{i}.txt": f"{split} {label} {i}: café\n".encode()
        for split, numbers in (("train", (2, 10)), ("test", (0,)))
        for label in ("bad", "fair", "good")
        for i in numbers
    }


def load_tree(root):
    return load_dataset("text_folder", root=root)


def test_a_text_folder_gives_its_texts_labels_and_order(tmp_path, files):
    dataset = load_tree(write_tree(tmp_path / "talk", files))
    texts = [content.decode() for content in files.values()]
    assert dataset.train_texts == tuple(texts[:6])  # 2.txt before 10.txt
    assert dataset.test_texts == tuple(texts[6:])
    assert dataset.train_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert dataset.test_labels.tolist() == [0, 1, 2]
    assert dataset.class_names == ("bad", "fair", "good")
    assert (dataset.name, dataset.description) == ("text_folder", "text folder talk")


def test_file_names_are_ordered_by_their_numbers_then_letter_by_letter(tmp_path, files):
    names = ["1.txt", "01_2.txt", "1_2.txt", "1_10.txt", "2_1.txt", "a1.txt", "a02.txt", "a2.txt", "b.txt"]
    more = {f"train/bad/{name}": name.encode() for name in names}
    rest = without(files, "train/bad")
    dataset = load_tree(write_tree(tmp_path / "talk", rest | more))
    assert dataset.train_texts[: len(names)] == tuple(names)


@pytest.mark.parametrize("name", ["talk.tar", "talk.tar.gz", "talk.tgz", "talk.tar.xz"])
@pytest.mark.parametrize("leading", ["", "./talk/"])
def test_an_archive_equals_the_folder(tmp_path, files, name, leading):
    folder = load_tree(write_tree(tmp_path / "talk", files))
    archive = load_tree(write_archive(tmp_path / name, files, leading))
    assert archive.fingerprint == folder.fingerprint
    assert archive.train_texts == folder.train_texts
    assert torch.equal(archive.test_labels, folder.test_labels)


def test_what_is_not_a_text_of_a_class_is_ignored(tmp_path, files):
    plain = load_tree(write_tree(tmp_path / "plain", files))
    extra = {
        "README.md": b"about",
        "train/urls.txt": b"\xff",
        "train/bad/notes.md": b"\xff",
        "train/bad/.hidden.txt": b"\xff",
        "train/.trash/0.txt": b"\xff",
        "test/good/old/0.txt": b"\xff",
    }
    assert load_tree(write_tree(tmp_path / "more", files | extra)).fingerprint == plain.fingerprint
    assert load_tree(write_archive(tmp_path / "more.tar", files | extra)).fingerprint == plain.fingerprint


@pytest.mark.parametrize("text", ["word", "word " * 100_000, "\ttwo\r\nlines \n", "日本語", "\u200b?"])
def test_odd_texts_are_kept_as_they_are(tmp_path, files, text):
    root = write_tree(tmp_path / "talk", files | {"test/good/0.txt": text.encode()})
    assert load_tree(root).test_texts[2] == text


def test_a_byte_order_mark_is_dropped(tmp_path, files):
    root = write_tree(tmp_path / "talk", files | {"test/good/0.txt": b"\xef\xbb\xbfword"})
    assert load_tree(root).test_texts[2] == "word"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected at least one word in test/good/0.txt of .*, got 0 bytes"),
        (b" \n\t", "expected at least one word in .*, got 3 bytes of nothing but space. Remove"),
        (
            b"a\0b",
            "expected text in test/good/0.txt of .*, got a NUL byte at position 1.*convert it to UTF-8",
        ),
        ("word".encode("utf-16-be"), "got a NUL byte at position 0.* UTF-16"),
        ("word".encode("utf-16"), "expected UTF-8 in test/good/0.txt of .*, got byte 0xff at position 0"),
        ("café".encode("latin1"), "expected UTF-8 in .*, got byte 0xe9 at position 3. Convert it"),
    ],
)
@pytest.mark.parametrize("container", ["folder", "archive"])
def test_what_is_no_text_is_named_with_its_fault(tmp_path, files, content, message, container):
    files |= {"test/good/0.txt": content}
    if container == "folder":
        root = write_tree(tmp_path / "talk", files)
    else:
        root = write_archive(tmp_path / "talk.tar", files, "talk/")
    with pytest.raises(DataError, match=f"text_folder: .*{message}") as error:
        load_tree(root)
    assert str(root) in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files: without(files, "test/"), r"\{train,test\}/<class>/<text>"),
        (lambda files: without(files, "train/fair"), "class 'fair' has no texts in train/ of .*Add some"),
        (lambda files: without(without(files, "train/bad"), "test/bad"), None),
        (
            lambda files: {path: content for path, content in files.items() if "bad" in path},
            "only one class, 'bad', in .*expected at least two",
        ),
        (
            lambda files: {f"{path.split('/')[0]}/{i}.txt": files[path] for i, path in enumerate(files)},
            # The labels are missing.
            "no texts of the split 'train' in .*expected {train,test}/<class>/<text>",
        ),
    ],
)
@pytest.mark.parametrize("container", ["folder", "archive"])
def test_classes_must_be_there_in_both_splits(tmp_path, files, change, message, container):
    files = change(files)
    if container == "folder":
        root = write_tree(tmp_path / "talk", files)
    else:
        root = write_archive(tmp_path / "talk.tar", files)
    if message is None:
        assert load_tree(root).class_names == ("fair", "good")
        return
    with pytest.raises(DataError, match=f"text_folder: .*{message}"):
        load_tree(root)


def test_a_folder_that_is_not_there_is_explained(tmp_path):
    with pytest.raises(DataError, match=r"text_folder: expected .*<text> in .*found no folder train and no"):
        load_tree(tmp_path / "nowhere")
    found = {name: available for name, available, _ in find_datasets(tmp_path)}
    assert not found["text_folder"]


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.xz"])
def test_a_cut_archive_is_an_error(tmp_path, files, suffix):
    path = write_archive(tmp_path / f"talk{suffix}", files)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=f"text_folder: .*talk{suffix} is damaged or cut short"):
        load_tree(path)


def test_texts_come_from_the_cache_the_second_time_and_anew_when_the_source_changed(tmp_path, files):
    archive = write_archive(tmp_path / "talk.tar", files)
    first = load_tree(archive)
    overwrite_unnoticed(archive, b"")
    second = load_tree(archive)
    assert (second.train_texts, second.test_texts) == (first.train_texts, first.test_texts)
    assert second.fingerprint == first.fingerprint
    write_archive(archive, files | {"train/bad/99.txt": b"more"})
    assert load_tree(archive).train_texts[:3] == (*first.train_texts[:2], "more")


def test_a_number_in_a_name_may_have_more_digits_than_python_reads(tmp_path, files):
    """Only in an archive: file systems have no names of that length."""
    names = [f"{'0' * 9}1.txt", f"{'1' * 5000}.txt", f"{'1' * 4999}2.txt", f"{'1' * 5001}.txt"]
    more = {f"train/bad/{name}": name.encode() for name in names}
    dataset = load_tree(write_archive(tmp_path / "talk.tar", without(files, "train/bad") | more))
    assert dataset.train_texts[: len(names)] == tuple(names)


def test_texts_are_refused_by_their_size(tmp_path, files, monkeypatch):
    monkeypatch.setenv("UNROLLING_MAX_GB", "1e-4")
    root = write_tree(tmp_path / "talk", files | {"test/good/0.txt": b"word " * 30_000})
    with pytest.raises(DataError, match=r"talk unpacks to at least 0\.00015 GB"):
        load_tree(root)


def test_a_text_outside_of_the_folder_is_not_read(tmp_path, files):
    root = write_tree(tmp_path / "talk", files)
    (tmp_path / "secret.txt").write_text("secret")
    (root / "train/bad/99.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(DataError, match=r"the link .*99\.txt leads out of"):
        load_tree(root)

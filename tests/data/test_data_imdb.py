"""IMDB: folder, archives and download give the same texts; the real archive is what its README says."""

import os
import sys
from collections import Counter
from pathlib import Path

import pytest
from trees import write_archive, write_tree

from unrolling._checks import DataError
from unrolling.data import download_dataset, find_datasets, imdb, load_dataset
from unrolling.data.text import shared_texts

SHARED = Path(os.environ.get("UNROLLING_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")


@pytest.fixture(autouse=True)
def clean_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("UNROLLING_CACHE", str(tmp_path / "cache"))


# ---- a small one in the publisher's layout ----


@pytest.fixture
def files(monkeypatch):
    """Three texts in each folder, in the order of the labels; one is in both splits."""
    monkeypatch.setattr(imdb, "PER_CLASS", 3)
    files = {
        f"{split}/{label}/{number}_{rating}.txt": f"{split} {label}<br /><br />No. {number}".encode()
        for split in ("train", "test")
        for label, rating in (("neg", 2), ("pos", 9))
        for number in (0, 2, 10)
    }
    files["test/pos/2_9.txt"] = files["train/pos/10_9.txt"]
    return files


def extra():
    return {
        "README": b"about",
        "imdb.vocab": b"the",
        "train/unsup/0_0.txt": b"unlabelled",
        "train/labeledBow.feat": b"9 0:9",
        "train/urls_neg.txt": b"address",
    }


def test_texts_labels_and_order_are_those_of_the_files(tmp_path, files):
    write_tree(tmp_path / "aclImdb", files | extra())
    dataset = load_dataset("imdb", root=tmp_path)
    texts = [content.decode().replace("<br />", " ") for content in files.values()]
    assert dataset.train_texts == tuple(texts[:6])
    assert dataset.test_texts == tuple(texts[6:])
    assert dataset.train_labels.tolist() == dataset.test_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.class_names == ("neg", "pos")
    assert "train neg  No. 0" in dataset.train_texts


@pytest.mark.parametrize("name", ["imdb.tar.xz", "aclImdb_v1.tar.gz"])
def test_an_archive_equals_the_folder(tmp_path, files, name):
    folder = load_dataset("imdb", root=write_tree(tmp_path / "one/aclImdb", files).parent)
    (tmp_path / "two").mkdir()
    archive = write_archive(tmp_path / "two" / name, files | extra(), "aclImdb/")
    dataset = load_dataset("imdb", root=archive.parent)
    assert dataset.fingerprint == folder.fingerprint
    assert dataset.train_texts == folder.train_texts


def test_texts_in_both_splits_can_be_left_out(tmp_path, files):
    root = write_tree(tmp_path / "aclImdb", files).parent
    whole, less = load_dataset("imdb", root=root), load_dataset("imdb-without-shared", root=root)
    assert shared_texts(whole)[:2] == (1, 1)
    assert less.train_texts == whole.train_texts[:5]
    assert less.test_texts == whole.test_texts
    assert less.name == "imdb-without-shared"
    assert less.fingerprint != whole.fingerprint


def test_part_of_imdb_is_not_taken_for_the_whole(tmp_path, files):
    del files["test/neg/2_2.txt"]
    write_tree(tmp_path / "aclImdb", files)
    with pytest.raises(
        DataError, match=r"imdb: expected 3 texts of each class .*\[3, 3\] and \[2, 3\]. Unpack"
    ):
        load_dataset("imdb", root=tmp_path)


def test_nothing_stands_in_for_missing_texts(tmp_path):
    for name in ("imdb", "imdb-without-shared"):
        with pytest.raises(DataError, match=r"imdb.tar.xz .*UNROLLING_DATA.*unrolling data imdb --download"):
            load_dataset(name, root=tmp_path)
        (entry,) = [entry for entry in find_datasets(tmp_path) if entry.name == name]
        assert not entry.available


def test_a_cut_archive_is_an_error(tmp_path, files):
    path = write_archive(tmp_path / "imdb.tar.xz", files, "aclImdb/")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"imdb: .*imdb.tar.xz is damaged or cut short"):
        load_dataset("imdb", root=tmp_path)


# ---- the download, with a stand-in for the library of that name ----

LIBRARY = """
def load_dataset(name):
    assert name == "stanfordnlp/imdb"
    {failure}
    return {{
        split: [{{"text": f"{{split}} {{i}} café<br />", "label": i // 3}} for i in range(6)]
        for split in ("train", "test", "unsupervised")
    }}
"""


@pytest.fixture
def library(tmp_path, monkeypatch):
    def write(failure=""):
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "datasets.py").write_text(LIBRARY.format(failure=failure))
        monkeypatch.syspath_prepend(tmp_path / "site")
        monkeypatch.delitem(sys.modules, "datasets", raising=False)

    yield write
    sys.modules.pop("datasets", None)


def test_a_download_lands_in_the_data_root_and_then_loads(tmp_path, files, library):
    library()
    download_dataset("imdb", root=tmp_path / "data")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["aclImdb"]
    dataset = load_dataset("imdb", root=tmp_path / "data")
    assert dataset.train_texts == tuple(f"train {i} café " for i in range(6))
    assert dataset.test_labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_what_is_there_is_not_downloaded_again(tmp_path, files, library):
    library("raise OSError('asked the network')")
    write_tree(tmp_path / "aclImdb", files)
    download_dataset("imdb", root=tmp_path)
    assert len(load_dataset("imdb", root=tmp_path).train_texts) == 6


def test_a_download_that_fails_says_what_to_do_and_leaves_nothing(tmp_path, library):
    library("raise OSError('no network')")
    with pytest.raises(DataError, match=r"imdb: could not download .*no network.*put aclImdb_v1.tar.gz from"):
        download_dataset("imdb", root=tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_without_the_library_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)  # what makes Python refuse the import
    with pytest.raises(DataError, match=r"pip install datasets.*put aclImdb_v1.tar.gz from .* into"):
        download_dataset("imdb", root=tmp_path)


# ---- the real one, where it is at hand ----


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    if not (SHARED / "imdb.tar.xz").exists():
        pytest.skip(f"imdb.tar.xz is not in {SHARED}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNROLLING_CACHE", str(tmp_path_factory.mktemp("cache")))
        return {name: load_dataset(name, root=SHARED) for name in ("imdb", "imdb-without-shared")}


def test_imdb_is_complete(real):
    dataset = real["imdb"]
    assert dataset.train_labels.bincount().tolist() == [12_500, 12_500]
    assert dataset.test_labels.bincount().tolist() == [12_500, 12_500]
    assert not any("<br" in text for text in dataset.train_texts + dataset.test_texts)
    # The first and the last review as the publisher numbers them: 0_3 of neg and 12499_7 of pos.
    assert dataset.train_texts[0].startswith("Story of a man who has unnatural feelings for a pig.")


def test_imdb_shares_123_texts_between_its_splits(real):
    whole, less = real["imdb"], real["imdb-without-shared"]
    assert shared_texts(whole) == (123, 123, 24_904, 24_801, 0)
    assert len(less.train_texts) == 24_877
    assert shared_texts(less)[:2] == (0, 0)
    left_out = Counter(whole.train_texts) - Counter(less.train_texts)
    assert set(left_out) == set(whole.train_texts) & set(whole.test_texts)

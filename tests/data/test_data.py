"""Data sets: pixels, labels and order against their sources; every kind of damage is one clear error."""

import gzip
import io
import lzma
import os
import pickle
import shutil
import struct
import tarfile
import threading
import zlib
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from sklearn import datasets as sklearn_datasets
from trees import overwrite_unnoticed, without, write_archive, write_tree

from unrolling._checks import DataError, InputError
from unrolling.data import DATASETS, Dataset, download_dataset, find_datasets, load_dataset
from unrolling.data.dataset import channel_statistics, content_fingerprint
from unrolling.seeding import make_generator

SHARED = Path(os.environ.get("UNROLLING_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")


@pytest.fixture(autouse=True)
def clean_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("UNROLLING_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("UNROLLING_DATA", raising=False)


# ---- Dataset ----


def make_dataset(**changes):
    content = {
        "name": "toy",
        "train_inputs": torch.arange(100.0).reshape(100, 1),
        "train_labels": torch.tensor([0] * 60 + [1] * 30 + [2] * 10),
        "test_inputs": torch.arange(50.0).reshape(50, 1),
        "test_labels": torch.tensor([0] * 30 + [1] * 15 + [2] * 5),
        "class_names": ("a", "b", "c"),
        "fingerprint": "0123456789abcdef",
        "description": "a toy",
    }
    return Dataset(**(content | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_labels": torch.zeros(99, dtype=torch.int64)}, r"one label per train input .*\(99,\)"),
        (
            {"test_inputs": torch.zeros(0, 1), "test_labels": torch.zeros(0, dtype=torch.int64)},
            "one label per test",
        ),
        ({"train_labels": torch.zeros(100)}, "train labels must be int64, got torch.float32"),
        ({"class_names": ("a", "b")}, r"train labels must be in 0..1 \(2 class names\), got 0..2"),
        ({"test_labels": torch.full((50,), -1)}, "test labels must be in 0..2 .*, got -1..-1"),
        ({"class_names": ("a",)}, "at least two classes"),
        ({"train_inputs": torch.full((100, 1), float("nan"))}, "train inputs must be finite"),
        ({"test_inputs": torch.full((50, 1), -float("inf"))}, "test inputs must be finite"),
        ({"test_inputs": torch.zeros(50, 2)}, "train and test inputs must be alike"),
        ({"test_inputs": torch.zeros(50, 1, dtype=torch.float64)}, "train and test inputs must be alike"),
        ({"train_inputs": [[1.0]] * 100}, "train inputs must be a tensor of real examples, got a list"),
        (
            {"train_inputs": np.zeros((100, 1))},
            "train inputs must be a tensor of real examples, got a ndarray",
        ),
        ({"train_inputs": torch.tensor(1.0)}, "train inputs must be a tensor of real examples"),
        ({"train_inputs": torch.zeros(100, 1, dtype=torch.complex64)}, "got a torch.complex64 tensor"),
        ({"train_inputs": torch.zeros(100, 0)}, "train inputs must not be empty"),
        ({"train_labels": [0] * 100}, "train labels must be an int64 tensor, got a list"),
        ({"class_names": None}, "class_names must be a tuple of texts, got None"),
        ({"class_names": "abc"}, "class_names must be a tuple of texts, got 'abc'"),
        ({"class_names": (0, 1, 2)}, "class_names must be a tuple of texts"),
        ({"train_lengths": [1] * 100}, "one length per train input, a tensor"),
    ],
)
def test_a_dataset_that_does_not_fit_together_is_refused(changes, message):
    with pytest.raises(InputError, match=f"toy: .*{message}"):
        make_dataset(**changes)


def test_a_subset_keeps_class_shares_order_and_pairs():
    full = make_dataset()
    part = full.subset(50, 10, make_generator(0, "subset"))
    assert part.train_labels.bincount().tolist() == [30, 15, 5]
    assert part.test_labels.bincount().tolist() == [6, 3, 1]
    chosen = part.train_inputs.flatten().long()  # an input of the toy is its own index
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert torch.equal(part.train_labels, full.train_labels[chosen])
    assert part.description == "a toy; 50 of 100 training and 10 of 50 test examples"


def test_a_subset_depends_on_the_generator_and_smaller_ones_are_nested():
    def chosen(seed, num_train):
        part = make_dataset().subset(num_train, 10, make_generator(seed, "subset"))
        return set(part.train_inputs.flatten().tolist()), part.fingerprint

    assert chosen(0, 50) == chosen(0, 50)
    assert chosen(0, 50)[0] != chosen(1, 50)[0]
    assert chosen(0, 20)[0] < chosen(0, 50)[0]
    fingerprints = {chosen(0, 50)[1], chosen(1, 50)[1], chosen(0, 20)[1], make_dataset().fingerprint}
    assert len(fingerprints) == 4


def test_every_example_is_equally_likely_in_a_subset():
    generator = make_generator(0, "subset")
    counts = torch.zeros(100)
    for _ in range(400):
        counts[make_dataset().subset(30, 1, generator).train_inputs.flatten().long()] += 1
    # Binomial(400, 0.3): mean 120, standard deviation 9.2; five of these around the mean for each of 100.
    assert counts.min() > 74
    assert counts.max() < 166


def test_subsets_with_other_test_examples_have_another_fingerprint():
    """Also where the training part is the same and the test parts are of one size."""
    full = make_dataset()
    parts = [full.subset(100, 10, make_generator(seed, "subset")) for seed in (0, 1)]
    assert torch.equal(parts[0].train_inputs, parts[1].train_inputs)
    assert not torch.equal(parts[0].test_inputs, parts[1].test_inputs)
    assert parts[0].fingerprint != parts[1].fingerprint


@pytest.mark.parametrize(
    ("num_train", "num_test", "name"), [(101, 1, "num_train"), (1, 51, "num_test"), (0, 1, "num_train")]
)
def test_a_subset_cannot_be_larger_than_the_data(num_train, num_test, name):
    with pytest.raises(InputError, match=f"{name} must be between 1 and"):
        make_dataset().subset(num_train, num_test, make_generator(0))


@pytest.mark.parametrize("generator", [5, None, np.random.default_rng(0)])
def test_a_subset_takes_a_generator_of_pytorch(generator):
    for draw in (make_dataset().subset, make_dataset().more_training_data):
        with pytest.raises(InputError, match=r"generator must be a torch\.Generator, .* make_generator"):
            draw(50, 10, generator)


def test_channel_statistics_are_those_of_numpy():
    pixels = np.random.default_rng(0).integers(0, 256, (1003, 3, 4, 5), dtype=np.uint8)
    pixels[:, 1] //= 3
    mean, std = channel_statistics(torch.from_numpy(pixels))
    np.testing.assert_allclose(mean, pixels.astype(np.float64).mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.astype(np.float64).std(axis=(0, 2, 3)), rtol=1e-12)


def test_the_fingerprint_sees_every_pixel_label_shape_and_type():
    pixels, labels = torch.arange(12, dtype=torch.uint8).reshape(3, 4), torch.tensor([0, 1, 0])
    changed = pixels.clone()
    changed[2, 3] += 1
    fingerprints = {
        content_fingerprint(pixels, labels),
        content_fingerprint(changed, labels),
        content_fingerprint(pixels, labels.flip(0) + 1),
        content_fingerprint(pixels.reshape(4, 3), labels),
        content_fingerprint(pixels.to(torch.int8), labels),
        content_fingerprint(labels, pixels),
    }
    assert len(fingerprints) == 6
    assert content_fingerprint(pixels.T, labels) == content_fingerprint(pixels.T.contiguous(), labels)


# ---- digits ----


def test_digits_are_scikit_learns_split_without_loss_or_overlap():
    digits, source = load_dataset("digits"), sklearn_datasets.load_digits()
    assert digits.train_inputs.shape == (1440, 1, 8, 8)
    assert digits.test_inputs.shape == (357, 1, 8, 8)
    assert digits.class_names == tuple("0123456789")
    assert digits.train_inputs.dtype == torch.float32
    inputs = torch.cat([digits.train_inputs, digits.test_inputs]).numpy()
    labels = torch.cat([digits.train_labels, digits.test_labels]).numpy()
    # Standardisation is affine and both extremes, 0 and 16, occur: undo it without knowing its constants.
    pixels = np.rint(16 * (inputs - inputs.min()) / (inputs.max() - inputs.min())).astype(int)
    ours = Counter((p.tobytes(), y) for p, y in zip(pixels, labels, strict=True))
    theirs = Counter((p.tobytes(), y) for p, y in zip(source.images.astype(int), source.target, strict=True))
    assert ours == theirs


def test_digits_are_standardised_by_the_training_part():
    digits = load_dataset("digits")
    train = digits.train_inputs.double()
    assert float(train.mean()) == pytest.approx(0, abs=1e-6)
    assert float(train.std(correction=0)) == pytest.approx(1, abs=1e-6)
    assert abs(float(digits.test_inputs.double().mean())) > 1e-4


def test_the_digits_split_never_changes():
    # Stored runs are addressed by this fingerprint; it is that of the first split that was released.
    assert load_dataset("digits").fingerprint == "2ee3705fc6b6a18c"
    assert load_dataset("digits").train_labels.bincount().min() >= 138  # every class has its share of 144


# ---- image folder ----


def png(pixels, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png", **options)
    return buffer.getvalue()


@pytest.fixture
def pixels():
    """Five training and two test images of both classes, by path, in the order of the labels."""
    rng = np.random.default_rng(0)
    return {
        f"{split}/{label}/{i:02d}.png": rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)
        for split, count in (("train", 5), ("test", 2))
        for label in ("cat", "dog")
        for i in range(count)
    }


@pytest.fixture
def files(pixels):
    return {path: png(image) for path, image in pixels.items()}


def load_tree(root):
    return load_dataset("image_folder", root=root)


def test_an_image_folder_gives_its_pixels_labels_and_order(tmp_path, files, pixels):
    dataset = load_tree(write_tree(tmp_path / "pets", files))
    source = {s: np.stack([p for path, p in pixels.items() if path.startswith(s)]) for s in ("train", "test")}
    mean, std = source["train"].mean(axis=(0, 1, 2)), source["train"].std(axis=(0, 1, 2))
    for split, inputs in (("train", dataset.train_inputs), ("test", dataset.test_inputs)):
        expected = ((source[split] - mean) / std).transpose(0, 3, 1, 2)
        np.testing.assert_allclose(inputs, expected, atol=1e-5)
    assert dataset.train_labels.tolist() == [0] * 5 + [1] * 5
    assert dataset.test_labels.tolist() == [0] * 2 + [1] * 2
    assert dataset.class_names == ("cat", "dog")
    assert dataset.name == "image_folder"
    assert dataset.description == "image folder pets, 6 x 5 RGB"


@pytest.mark.parametrize("name", ["pets.tar", "pets.tar.gz", "pets.tgz", "pets.tar.xz"])
@pytest.mark.parametrize("leading", ["", "./", "pets/", "./pets/"])
def test_an_archive_equals_the_folder(tmp_path, files, name, leading):
    folder = load_tree(write_tree(tmp_path / "pets", files))
    archive = load_tree(write_archive(tmp_path / name, files, leading))
    assert archive.fingerprint == folder.fingerprint
    assert torch.equal(archive.train_inputs, folder.train_inputs)
    assert torch.equal(archive.test_labels, folder.test_labels)


def test_an_archive_made_by_tar_of_a_folder_is_read(tmp_path, files):
    write_tree(tmp_path / "pets", files)
    with tarfile.open(tmp_path / "made.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "pets", "pets")
    assert load_tree(tmp_path / "made.tar.gz").fingerprint == load_tree(tmp_path / "pets").fingerprint


def test_what_is_not_an_image_of_a_class_is_ignored(tmp_path, files):
    plain = load_tree(write_tree(tmp_path / "plain", files))
    extra = {
        "README.md": b"about",
        "train/classes.txt": b"cat dog",
        "train/cat/notes.txt": b"none",
        "train/cat/._00.png": b"a desktop's bookkeeping",
        "train/.ipynb_checkpoints/00.png": b"",
        "test/dog/old/00.png": b"",
    }
    assert load_tree(write_tree(tmp_path / "more", files | extra)).fingerprint == plain.fingerprint
    assert load_tree(write_archive(tmp_path / "more.tar", files | extra)).fingerprint == plain.fingerprint


def test_grey_images_have_one_channel_unless_some_are_coloured(tmp_path, files, pixels):
    grey = {path: png(image[:, :, 0]) for path, image in pixels.items()}
    dataset = load_tree(write_tree(tmp_path / "grey", grey))
    assert dataset.train_inputs.shape == (10, 1, 6, 5)
    assert dataset.description == "image folder grey, 6 x 5 grey"

    first = "train/cat/00.png"
    repeated = np.repeat(pixels[first][:, :, :1], 3, axis=2)
    mixed = load_tree(write_tree(tmp_path / "mixed", files | {first: grey[first]}))
    explicit = load_tree(write_tree(tmp_path / "explicit", files | {first: png(repeated)}))
    assert mixed.fingerprint == explicit.fingerprint
    assert mixed.description == "image folder mixed, 6 x 5 RGB (1 of 14 images are grey)"


def test_transparent_and_palette_images_become_rgb(tmp_path, files, pixels):
    first, second = "train/cat/00.png", "train/cat/01.png"
    opaque = np.concatenate([pixels[first], np.full((6, 5, 1), 255, np.uint8)], axis=2)
    buffer = io.BytesIO()
    Image.fromarray(pixels[second]).quantize(256).save(buffer, "png")  # 30 pixels: the palette is exact
    converted = files | {first: png(opaque), second: buffer.getvalue()}
    expected = load_tree(write_tree(tmp_path / "plain", files)).fingerprint
    assert load_tree(write_tree(tmp_path / "converted", converted)).fingerprint == expected


SQUARE = png(np.zeros((5, 5, 3), np.uint8))
DEEP = png(np.zeros((6, 5), np.uint16))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files: without(files, "test/"), r"\{train,test\}/<class>/<image>"),
        (lambda files: without(files, "test/dog"), "class 'dog' has no images in test/ of"),
        (lambda files: without(files, "train/cat"), "class 'cat' has no images in train/ of"),
        (lambda files: without(without(files, "train/dog"), "test/dog"), "only one class, 'cat'"),
        (lambda files: files | {"train/dog/99.png": SQUARE}, "one size.*5 x 5.*5 x 6"),
        (lambda files: files | {"train/dog/99.png": DEEP}, "99.png .* mode I;16; expected at most 8 bits"),
        (lambda files: files | {"test/dog/99.jpg": b"not an image"}, "cannot decode test/dog/99.jpg in"),
        (lambda files: files | {"test/dog/99.png": SQUARE[:45]}, "cannot decode test/dog/99.png in"),
        (lambda files: dict.fromkeys(files, SQUARE), "cannot standardise"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("container", ["folder", "archive"])
def test_a_wrong_tree_is_named_with_its_fault(tmp_path, files, change, message, container):
    files = change(files)
    if container == "folder":
        root = write_tree(tmp_path / "pets", files)
    else:
        root = write_archive(tmp_path / "pets.tar", files, "pets/")
    with pytest.raises(DataError, match=f"image_folder: .*{message}") as error:
        load_tree(root)
    assert message.startswith("cannot standardise") or str(root) in str(error.value)


def test_an_empty_class_folder_is_an_error(tmp_path, files):
    root = write_tree(tmp_path / "pets", files)
    for split in ("train", "test"):
        (root / split / "bird").mkdir()
    with pytest.raises(DataError, match="class 'bird' has no images in train/"):
        load_tree(root)


def test_a_path_that_cannot_be_an_image_folder_is_explained(tmp_path, files):
    with pytest.raises(DataError, match=r"found no folder train and no folder test"):
        load_tree(tmp_path / "nowhere")
    (tmp_path / "pets.zip").write_bytes(b"PK")
    with pytest.raises(
        DataError, match=r"pets.zip is neither a folder nor one of .tar, .tar.gz, .tgz, .tar.xz"
    ):
        load_tree(tmp_path / "pets.zip")
    root = write_tree(tmp_path / "pets", files)
    (root / "train" / "cat" / "99.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"cannot read .*99.png"):
        load_tree(root)
    two = write_archive(tmp_path / "two.tar", {f"{top}/{p}": c for top in "ab" for p, c in files.items()})
    with pytest.raises(DataError, match=r"several trees, below \['a', 'b'\]"):
        load_tree(two)


@pytest.mark.parametrize(
    ("suffix", "kept"),
    # The last percent of a plain archive is padding; a compressed one ends with its checksum.
    [(s, kept) for s in (".tar", ".tar.gz", ".tar.xz") for kept in (0, 0.01, 0.5)]
    + [(".tar.gz", 0.99), (".tar.xz", 0.99)],
)
def test_a_cut_archive_is_an_error(tmp_path, files, suffix, kept):
    path = write_archive(tmp_path / f"pets{suffix}", files)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DataError, match=f"image_folder: .*pets{suffix} is damaged or cut short"):
        load_tree(path)


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.xz"])
@pytest.mark.parametrize("where", [0.3, 0.6, 0.9])
def test_a_flipped_bit_in_a_compressed_archive_is_an_error(tmp_path, files, suffix, where):
    path = write_archive(tmp_path / f"pets{suffix}", files)
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="image_folder: "):
        load_tree(path)


def test_an_archive_cut_between_two_members_is_an_error(tmp_path, files):
    path = write_archive(tmp_path / "pets.tar", files)
    with tarfile.open(path) as archive:
        last = archive.getmembers()[-1]
    path.write_bytes(path.read_bytes()[: last.offset])
    with pytest.raises(DataError, match="no end-of-archive marker"):
        load_tree(path)


# ---- sizes, links and names ----


def header_of_a_png(width, height):
    """A PNG that says it is of this size, and has hardly any pixels."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )


def test_images_are_refused_by_their_size_before_one_is_decoded(tmp_path, files, monkeypatch):
    def decoded(*arguments):
        raise AssertionError("an image was decoded")

    monkeypatch.setattr(Image.Image, "convert", decoded)
    big = header_of_a_png(9000, 9000)  # 0.243 GB decoded
    root = write_tree(tmp_path / "pets", dict.fromkeys(files, big))
    with pytest.raises(DataError, match=r"pets, decoded, unpacks to at least 2\.19 GB, .* UNROLLING_MAX_GB="):
        load_tree(root)
    huge = write_tree(tmp_path / "huge", files | {"train/cat/00.png": header_of_a_png(2**31 - 1, 2**31 - 1)})
    with pytest.raises(DataError, match=r"unpacks to at least|cannot decode"):
        load_tree(huge)


def test_the_limit_can_be_moved(tmp_path, files, monkeypatch):
    root = write_tree(tmp_path / "pets", files)
    monkeypatch.setenv("UNROLLING_MAX_GB", str(14 * 6 * 5 * 3 / 1e9))
    with pytest.raises(DataError, match="unpacks to at least"):  # the files are larger than their pixels
        load_tree(root)
    monkeypatch.setenv("UNROLLING_MAX_GB", "1e-5")
    assert len(load_tree(root).train_labels) == 10


def bomb(path, member, size, wrap):
    """An archive of a few kB whose one member says, and has, ``size`` zeros."""
    info = tarfile.TarInfo(member)
    info.size = size
    with (
        open("/dev/zero", "rb") as zeros,
        wrap(path, "wb") as stream,
        tarfile.open(fileobj=stream, mode="w|") as archive,
    ):
        archive.addfile(info, zeros)


@pytest.mark.parametrize("member", ["train/cat/0.png", "train/cat/notes.md", "elsewhere"])
@pytest.mark.parametrize(
    ("suffix", "wrap"), [(".tar.gz", gzip.open), (".tar.xz", partial(lzma.open, preset=0))]
)
def test_an_archive_is_refused_by_the_sizes_it_says(tmp_path, monkeypatch, member, suffix, wrap):
    monkeypatch.setenv("UNROLLING_MAX_GB", "0.01")
    path = tmp_path / f"pets{suffix}"
    bomb(path, member, 20_000_000, wrap)
    assert path.stat().st_size < 200_000
    with pytest.raises(
        DataError, match=rf"image_folder: .*pets{suffix} unpacks to at least 0\.02 GB, .* 0\.01 GB"
    ):
        load_tree(path)


def test_an_archive_that_says_less_than_it_has_is_refused_too(tmp_path, files, monkeypatch):
    """Zeros behind the end, and a header of a header: tarfile itself would read both to the end."""
    monkeypatch.setenv("UNROLLING_MAX_GB", "0.01")
    tail = write_archive(tmp_path / "plain.tar", files).read_bytes() + bytes(20_000_000)
    (tmp_path / "tail.tar.gz").write_bytes(gzip.compress(tail))
    header = tarfile.TarInfo("train/cat/0.png")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 20_000_000
    (tmp_path / "header.tar.gz").write_bytes(gzip.compress(header.tobuf() + bytes(20_000_000)))
    for name in ("tail.tar.gz", "header.tar.gz"):
        with pytest.raises(DataError, match=f"{name} unpacks to at least"):
            load_tree(tmp_path / name)


def test_headers_without_end_are_damage(tmp_path):
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1
    (tmp_path / "pets.tar").write_bytes((header.tobuf() + b"x".ljust(512, b"\0")) * 5000 + bytes(1024))
    with pytest.raises(DataError, match=r"pets\.tar is damaged or cut short"):
        load_tree(tmp_path / "pets.tar")


def test_a_file_of_a_folder_counts_as_well(tmp_path, files):
    root = write_tree(tmp_path / "pets", files)
    with (root / "train/cat/00.png").open("wb") as file:
        file.truncate(10**13)  # a file of holes
    with pytest.raises(DataError, match="pets unpacks to at least 1e\\+04 GB"):
        load_tree(root)


@pytest.mark.parametrize("what", ["train/cat/99.png", "train/cat", "test"])
def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path, files, what):
    root, outside = write_tree(tmp_path / "pets", files), write_tree(tmp_path / "outside", files)
    if (root / what).exists():
        shutil.rmtree(root / what)
    (root / what).symlink_to(outside / what.replace("99", "00"))
    with pytest.raises(DataError, match=f"the link .*{what} leads out of .*pets, to .*outside"):
        load_tree(root)


def test_a_link_within_the_folder_and_a_linked_folder_are_read(tmp_path, files):
    root = write_tree(tmp_path / "pets", files)
    (root / "train/cat/99.png").symlink_to("00.png")
    (tmp_path / "link").symlink_to(root)
    assert len(load_tree(root).train_labels) == 11
    assert len(load_tree(tmp_path / "link").train_labels) == 11


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_link_in_an_archive_is_named(tmp_path, files, kind):
    path = write_archive(tmp_path / "pets.tar", files)
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("train/cat/99.png")
        link.type, link.linkname = kind, "train/cat/00.png"
        archive.addfile(link)
    with pytest.raises(DataError, match=r"train/cat/99\.png in .* is a link\. Make the archive of the files"):
        load_tree(path)


def test_names_may_have_any_bytes(tmp_path, files):
    """As file systems have them, in folders and archives, and again from the cache."""
    odd = {
        path.replace("cat", "c\udcff\n\x1b[31m").replace("dog/0", "dog/\udc80"): c
        for path, c in files.items()
    }
    folder = load_tree(write_tree(tmp_path / "\udcfepets", odd))
    assert folder.class_names == ("c\udcff\n\x1b[31m", "dog")
    for _ in range(2):
        again = load_tree(write_archive(tmp_path / "\udcfepets.tar", odd))
        assert (again.fingerprint, again.class_names) == (folder.fingerprint, folder.class_names)
    (tmp_path / "\udcfepets/train/dog/\udc8100.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="cannot decode train/dog"):
        load_tree(tmp_path / "\udcfepets")


def jpeg(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "jpeg")
    return buffer.getvalue()


@pytest.mark.parametrize("container", ["folder", "archive"])
def test_an_image_is_read_or_named_whatever_it_is_called(tmp_path, files, pixels, container):
    def load(name, files):
        if container == "folder":
            return load_tree(write_tree(tmp_path / name, files))
        return load_tree(write_archive(tmp_path / f"{name}.tar", files))

    picture = jpeg(pixels["train/cat/00.png"])
    for ending in (".jfif", ".jpe", ".JFIF", ".jpg"):
        assert len(load(f"read{ending}", files | {f"train/cat/99{ending}": picture}).train_labels) == 11
    others = {
        "": picture,
        ".jpg_large": picture,
        ".dat": files["train/cat/00.png"],
        ".heic": b"\0\0\0\x18ftypheic" + bytes(20),
        ".avif": b"\0\0\0\x1cftypavif" + bytes(20),
        ".gif_": b"GIF89a" + bytes(20),
        ".webp1": b"RIFF\x10\0\0\0WEBPVP8 ",
    }
    for ending, content in others.items():
        with pytest.raises(DataError, match=f"train/cat/99{ending} in .* would be left out.* Rename it"):
            load(f"named{ending}", files | {f"train/cat/99{ending}": content})
    extra = {"train/cat/Thumbs.db": b"\xd0\xcf\x11\xe0", "train/cat/empty": b"", "train/cat/.99.bak": picture}
    assert len(load("extra", files | extra).train_labels) == 10


@pytest.mark.parametrize("root", ["", "~nobody-at-all/data", "a\0b", 5, b"data"])
def test_a_root_that_names_no_folder_is_refused(root, monkeypatch):
    with pytest.raises(InputError, match="root "):
        load_dataset("digits", root=root)
    with pytest.raises(InputError, match="root "):
        find_datasets(root)


@pytest.mark.parametrize("variable", ["UNROLLING_DATA", "UNROLLING_CACHE"])
def test_a_home_folder_that_is_not_known_is_one_error(variable, monkeypatch):
    monkeypatch.setenv(variable, "~nobody-at-all/data")
    with pytest.raises(InputError, match=f"{variable} '~nobody-at-all/data' begins with a home folder"):
        load_dataset("digits")


def test_a_folder_that_cannot_be_read_is_one_error(monkeypatch, tmp_path, files):
    long = tmp_path / ("a" * 300)
    assert not any(there for name, there, _ in find_datasets(long) if name not in ("digits", "reviews"))
    for name in ("image_folder", "text_folder", "imdb", "cifar10", "cifar10-jpeg"):
        with pytest.raises(DataError, match=name):
            load_dataset(name, root=long)

    def fail(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", fail)
    with pytest.raises(DataError, match=r"image_folder: .*Permission denied"):
        load_tree(tmp_path)
    assert ("image_folder", False, f"cannot read {tmp_path}: Permission denied") in find_datasets(tmp_path)


# ---- the cache of decoded images ----


def the_cache(tmp_path):
    (file,) = (tmp_path / "cache").iterdir()
    return file


@pytest.fixture
def archive(tmp_path, files):
    return write_archive(tmp_path / "pets.tar", files)


def test_decoded_images_come_from_the_cache_the_second_time(tmp_path, archive):
    first = load_tree(archive)
    overwrite_unnoticed(archive, b"")
    second = load_tree(archive)
    assert second.fingerprint == first.fingerprint
    assert torch.equal(second.train_inputs, first.train_inputs)
    assert second.class_names == first.class_names
    assert second.description == first.description


def test_a_changed_archive_replaces_its_cache(tmp_path, archive, files):
    first = load_tree(archive)
    write_archive(archive, files | {"train/cat/99.png": files["train/cat/00.png"]})
    changed = load_tree(archive)
    assert len(changed.train_labels) == len(first.train_labels) + 1
    assert the_cache(tmp_path).name.startswith("pets.tar-")


def test_a_changed_folder_is_read_again(tmp_path, files):
    root = write_tree(tmp_path / "pets", files)
    first = load_tree(root)
    (root / "train/cat/00.png").write_bytes(files["train/cat/01.png"])
    os.utime(root / "train/cat/00.png", (0, 0))
    assert load_tree(root).fingerprint != first.fingerprint


def flip_a_pixel(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def with_objects(content):
    buffer = io.BytesIO()
    np.savez(buffer, state=np.array([object()], dtype=object))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "damage",
    [flip_a_pixel, lambda c: c[: len(c) // 2], lambda c: b"", lambda c: b"garbage", with_objects],
    ids=["a bit", "cut", "empty", "garbage", "pickled objects"],
)
def test_a_damaged_cache_is_rebuilt(tmp_path, archive, damage):
    first = load_tree(archive)
    cache = the_cache(tmp_path)
    content = cache.read_bytes()
    cache.write_bytes(damage(content))
    assert load_tree(archive).fingerprint == first.fingerprint
    overwrite_unnoticed(archive, b"")
    assert load_tree(archive).fingerprint == first.fingerprint  # from the repaired cache


def test_without_a_writable_cache_folder_there_is_no_cache(tmp_path, archive, monkeypatch):
    expected = load_tree(archive).fingerprint
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("UNROLLING_CACHE", str(tmp_path / "file" / "cache"))
    assert load_tree(archive).fingerprint == expected
    assert (tmp_path / "file").read_bytes() == b""


def test_a_damaged_source_is_not_cached(tmp_path, archive):
    archive.write_bytes(archive.read_bytes()[:2000])
    with pytest.raises(DataError):
        load_tree(archive)
    assert not (tmp_path / "cache").exists()


# ---- CIFAR ----


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def publisher(tmp_path, monkeypatch):
    """The address of a web server on this machine for the folder ``publisher``."""
    (tmp_path / "publisher").mkdir()
    handler = partial(QuietHandler, directory=tmp_path / "publisher")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(params=["cifar10", "cifar100"])
def small_cifar(request, tmp_path, monkeypatch, publisher):
    """A CIFAR of 20 + 10 random images in the publisher's format, whose checksums torchvision is told."""
    name = request.param
    source = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[name]
    labels_key = {"cifar10": "labels", "cifar100": "fine_labels"}[name]
    rng = np.random.default_rng(0)
    folder = tmp_path / "publisher" / source.base_folder
    folder.mkdir(parents=True)

    def write(file, content):
        (folder / file).write_bytes(pickle.dumps(content, protocol=2))
        return torchvision.datasets.utils.calculate_md5(folder / file)

    batches = {}
    for file in [*(file for file, _ in source.train_list), "test_batch" if name == "cifar10" else "test"]:
        batches[file] = (rng.integers(0, 256, (10, 3072), dtype=np.uint8), rng.integers(0, 3, 10).tolist())
    sums = {f: write(f, {"data": images, labels_key: labels}) for f, (images, labels) in batches.items()}
    *train, test = sums.items()
    key = source.meta["key"]
    meta = source.meta | {"md5": write(source.meta["filename"], {key: ["ant", "bee", "cow"]})}
    with tarfile.open(tmp_path / "publisher" / source.filename, "w:gz") as archive:
        archive.add(folder, source.base_folder)
    monkeypatch.setattr(source, "train_list", [list(item) for item in train])
    monkeypatch.setattr(source, "test_list", [list(test)])
    monkeypatch.setattr(source, "meta", meta)
    monkeypatch.setattr(source, "url", f"{publisher}/{source.filename}")
    monkeypatch.setattr(
        source,
        "tgz_md5",
        torchvision.datasets.utils.calculate_md5(tmp_path / "publisher" / source.filename),
    )
    return name, folder, list(batches.values())


def test_cifar_gives_the_publishers_pixels_labels_and_order(small_cifar):
    name, folder, batches = small_cifar
    dataset = load_dataset(name, root=folder.parent)
    images = [images.reshape(-1, 3, 32, 32) for images, _ in batches]
    train = np.concatenate(images[:-1])
    mean, std = (statistic[:, None, None] for statistic in (train.mean((0, 2, 3)), train.std((0, 2, 3))))
    np.testing.assert_allclose(dataset.train_inputs, (train - mean) / std, atol=1e-5)
    np.testing.assert_allclose(dataset.test_inputs, (images[-1] - mean) / std, atol=1e-5)
    assert dataset.train_labels.tolist() == [y for _, labels in batches[:-1] for y in labels]
    assert dataset.test_labels.tolist() == batches[-1][1]
    assert dataset.class_names == ("ant", "bee", "cow")
    assert dataset.name == name


def test_cifar_that_fails_its_checksum_is_refused(small_cifar):
    name, folder, _ = small_cifar
    file = max(folder.iterdir(), key=lambda file: file.stat().st_size)
    file.write_bytes(flip_a_pixel(file.read_bytes()))
    message = f"{name}: missing or damaged in .*{folder.name}.*run: unrolling data {name} --download"
    with pytest.raises(DataError, match=message):
        load_dataset(name, root=folder.parent)


def is_available(name, root):
    return {found: available for found, available, _ in find_datasets(root)}[name]


def test_download_fetches_unpacks_and_then_loads(small_cifar, tmp_path):
    name, folder, _ = small_cifar
    assert not is_available(name, tmp_path / "data")
    download_dataset(name, root=tmp_path / "data")
    assert is_available(name, tmp_path / "data")
    expected = load_dataset(name, root=folder.parent).fingerprint
    assert load_dataset(name, root=tmp_path / "data").fingerprint == expected


def test_a_download_that_fails_says_what_to_do(small_cifar, tmp_path):
    name, folder, _ = small_cifar
    next(folder.parent.glob("*.tar.gz")).unlink()
    with pytest.raises(DataError, match=rf"{name}: could not download .*put cifar-.*\.tar\.gz into .*data"):
        download_dataset(name, root=tmp_path / "data")


def test_a_download_with_a_wrong_checksum_is_refused(small_cifar, tmp_path):
    name, folder, _ = small_cifar
    published = next(folder.parent.glob("*.tar.gz"))
    published.write_bytes(published.read_bytes()[:-1])
    with pytest.raises(DataError, match=f"{name}: could not download"):
        download_dataset(name, root=tmp_path / "data")


def test_only_published_data_can_be_downloaded(tmp_path):
    with pytest.raises(
        InputError, match="unknown downloadable data set 'digits': expected one of cifar10, cifar100, imdb"
    ):
        download_dataset("digits", root=tmp_path)


# ---- names and places ----


def test_an_unknown_name_suggests_a_known_one():
    with pytest.raises(
        InputError, match=r"unknown data set 'cifar-10': expected one of cifar10, .*Did you mean"
    ):
        load_dataset("cifar-10")


def test_nothing_stands_in_for_a_missing_data_set(tmp_path):
    for name in ("cifar10", "cifar100"):
        with pytest.raises(DataError, match=f"{name}: .*{tmp_path}.*run: unrolling data {name} --download"):
            load_dataset(name, root=tmp_path)
    with pytest.raises(DataError, match=f"cifar10-jpeg.tar.xz is in {tmp_path}.*or set UNROLLING_DATA"):
        load_dataset("cifar10-jpeg", root=tmp_path)


def test_part_of_cifar10_jpeg_is_not_taken_for_the_whole(tmp_path, files):
    write_tree(tmp_path / "cifar10-jpeg", files)
    with pytest.raises(
        DataError, match=r"expected 50,000 training and 10,000 test images .*, got 10, 4 and 2"
    ):
        load_dataset("cifar10-jpeg", root=tmp_path)


def test_the_root_is_the_argument_then_the_environment_then_data(tmp_path, files, monkeypatch):
    one, two, three = (tmp_path / name for name in ("one", "two", "here/data"))
    for root in (one, two, three):
        write_tree(root, files)
    monkeypatch.chdir(tmp_path / "here")
    assert load_dataset("image_folder").description.startswith("image folder data,")
    monkeypatch.setenv("UNROLLING_DATA", str(two))
    assert load_dataset("image_folder").description.startswith("image folder two,")
    assert load_dataset("image_folder", root=str(one)).description.startswith("image folder one,")


def test_a_notebook_finds_the_data_of_the_project(tmp_path, files, monkeypatch):
    # make book, papermill --cwd notebooks and Jupyter all run notebooks in notebooks/
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    (project / "notebooks").mkdir(parents=True)
    write_tree(project / "data", files)
    monkeypatch.setattr("unrolling._folders._PROJECT", project)
    monkeypatch.chdir(project / "notebooks")
    with pytest.raises(DataError):
        load_dataset("image_folder")  # a folder above an installed package is nobody's project
    (project / "pyproject.toml").touch()
    assert load_dataset("image_folder").description.startswith("image folder data,")
    (elsewhere / "data").mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    with pytest.raises(DataError):
        load_dataset("image_folder")


def test_find_datasets_says_what_is_there_and_why_not(tmp_path, files):
    (tmp_path / "cifar10-jpeg.tar.xz").write_bytes(b"only looked at")
    found = {name: (available, where) for name, available, where in find_datasets(tmp_path)}
    assert found.keys() == DATASETS.keys()
    assert found["digits"] == (True, "embedded")
    assert found["cifar10-jpeg"] == (True, str(tmp_path / "cifar10-jpeg.tar.xz"))
    assert not found["cifar10"][0]
    assert "unrolling data cifar10 --download" in found["cifar10"][1]
    assert not found["image_folder"][0]
    assert [name for name, source in DATASETS.items() if source.embedded] == ["digits", "reviews"]


# ---- the complete CIFAR-10 as JPEG, where it is at hand ----


@pytest.fixture(scope="module")
def cifar10_jpeg(tmp_path_factory):
    if not (SHARED / "cifar10-jpeg.tar.xz").exists() or not (SHARED / "cifar10-lossless-head.npz").exists():
        pytest.skip(f"cifar10-jpeg.tar.xz and cifar10-lossless-head.npz are not both in {SHARED}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNROLLING_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("UNROLLING_DATA", str(SHARED))
        return load_dataset("cifar10-jpeg")


@pytest.fixture(scope="module")
def lossless():
    """The original pixels of the head of every batch, and the labels of all images in the original order."""
    with np.load(SHARED / "cifar10-lossless-head.npz", allow_pickle=False) as stored:
        return dict(stored)


def test_cifar10_jpeg_is_complete(cifar10_jpeg, lossless):
    assert cifar10_jpeg.train_inputs.shape == (50_000, 3, 32, 32)
    assert cifar10_jpeg.train_labels.bincount().tolist() == [5000] * 10
    assert cifar10_jpeg.test_labels.bincount().tolist() == [1000] * 10
    assert cifar10_jpeg.class_names == tuple(lossless["class_names"])
    assert "JPEG quality 75" in cifar10_jpeg.description


def psnr(inputs, expected, positions):
    """Peak signal-to-noise ratio of every image, in dB. The extremes, 0 and 255, undo the standardisation."""
    low, high = (extreme.view(-1, 1, 1) for extreme in (inputs.amin((0, 2, 3)), inputs.amax((0, 2, 3))))
    decoded = ((inputs[positions] - low) / (high - low) * 255).numpy()
    error = ((decoded - expected.transpose(0, 3, 1, 2)) ** 2).mean(axis=(1, 2, 3))
    return 10 * np.log10(255**2 / error)


def positions_of(all_labels, indices, per_class):
    """Where an image of the original order is when sorted by class and then by the original order."""
    rank = np.zeros(len(all_labels), int)
    for label in range(10):
        rank[all_labels == label] = np.arange((all_labels == label).sum())
    return all_labels[indices].astype(int) * per_class + rank[indices]


@pytest.mark.parametrize(("split", "mean_psnr"), [("train", 30.53), ("test", 30.49)])
def test_cifar10_jpeg_agrees_with_the_original_pixels_and_labels(cifar10_jpeg, lossless, split, mean_psnr):
    inputs, labels, per_class = {
        "train": (cifar10_jpeg.train_inputs, cifar10_jpeg.train_labels, 5000),
        "test": (cifar10_jpeg.test_inputs, cifar10_jpeg.test_labels, 1000),
    }[split]
    expected = lossless[f"{split}_images"]
    indices = lossless["train_index"] if split == "train" else np.arange(len(expected))
    positions = positions_of(lossless[f"all_{split}_labels"], indices, per_class)
    assert labels[positions].tolist() == lossless[f"{split}_labels"].tolist()
    values = psnr(inputs, expected, positions)
    # The mean is the one measured when the archive was made; by chance two images agree to about 11 dB.
    assert values.mean() == pytest.approx(mean_psnr, abs=0.05)
    assert values.min() > 20
    assert psnr(inputs, expected, np.roll(positions, 1)).mean() < 15

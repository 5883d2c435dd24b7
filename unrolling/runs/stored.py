"""Which data stored runs were made from, where the data themselves are not here."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

from unrolling._checks import DataError
from unrolling.store import Store

_Key = Hashable


def stored_fingerprints(
    absent: Mapping[_Key, DataError], key: Callable[[dict[str, Any]], _Key], places: Iterable[Store]
) -> dict[_Key, str]:
    """Return the fingerprints of data that cannot be loaded, as stored runs name them.

    Stored results are shown without the data or weights that made them. Where these are here, their own
    fingerprint counts, and this function is not asked.

    Args:
        absent: Why the data cannot be loaded, by what decides them.
        key: Returns what decides a run's data from its settings, None if the run has nothing to do with it.
        places: Stores.

    Raises:
        DataError: If stored runs were made from more than one version of the data. Data without any run are
            left out.
    """
    found: dict[_Key, set[str]] = defaultdict(set)
    for record in (record for place in places for record in place) if absent else ():
        own = key(record.config)
        if own in absent:
            found[own].add(record.data["fingerprint"])
    for own, versions in found.items():
        if len(versions) > 1:
            raise DataError(
                f"stored runs with these settings come from {len(versions)} versions of their data "
                f"({', '.join(sorted(versions))}), and nothing here says which is meant: {absent[own]}"
            )
    return {own: version for own, (version,) in found.items()}


def must_be_computed(number: int, of: int, what: str, reason: DataError) -> DataError:
    """Return the error about runs that are not stored, and whose data are not here either."""
    return DataError(f"{number} of {of} {what} must be computed, which needs what is not here: {reason}")

"""The encoder that runs on text start from, in a sentence."""

from collections.abc import Iterable

from unrolling.store import Record, Store


def describe_encoder(run: Record, places: Iterable[Store]) -> str:
    """Return what the encoder of a run is, for a reader.

    Args:
        run: A run of a text model.
        places: Where runs are kept: encoders stand in a folder of their own there.
    """
    address = run.result.get("encoder", {}).get("address")
    for place in places:
        shelf = Store(place.root / "encoders")
        if address and address in shelf:
            return _described(shelf.get(address))
    return "They start from no encoder that is kept here."


def _described(encoder: Record) -> str:
    made, went = encoder.config, encoder.result
    return (
        f"The encoder has the address {encoder.address}: {made['size']:,} reviews that the experiment does "
        f"not use, {made['epochs']} epochs, {went['num_parameters']:,} parameters; as a classifier it gets "
        f"{100 * went['accuracy']:.1f} % of the test reviews right."
    )

"""The checks of the claims ledger, a module per subject; see :mod:`unrolling.experiments.ledger`."""

"""What the paper reports and claims: its tables and correlations as printed, its claims in our words."""

from unrolling.paper.claims import (
    KINDS,
    VERDICTS,
    Claim,
    Entry,
    Finding,
    NotTestable,
    claims,
    count_verdicts,
    find_claim,
)
from unrolling.paper.replicates import ReplicateNoise, replicate_band, replicate_noise
from unrolling.paper.tables import REPORTED, reported_table

__all__ = [
    "KINDS",
    "REPORTED",
    "VERDICTS",
    "Claim",
    "Entry",
    "Finding",
    "NotTestable",
    "ReplicateNoise",
    "claims",
    "count_verdicts",
    "find_claim",
    "replicate_band",
    "replicate_noise",
    "reported_table",
]

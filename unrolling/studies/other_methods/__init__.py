"""Costs and guarantees of the methods of others (sections 3.3 and 8.5)."""

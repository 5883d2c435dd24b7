"""Amnesiac unlearning, and the unlearning error as its proxy (section 9, Figures 14 and 15)."""

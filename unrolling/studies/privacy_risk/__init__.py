"""The privacy risk score (section 8.4, Figures 2 and 13)."""

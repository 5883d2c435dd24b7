"""Training with the standard deviation loss (section 8.1, Figures 7 and 8, Table 1)."""

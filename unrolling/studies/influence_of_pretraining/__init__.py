"""The standard deviation loss after more pre-training (section 8.1, Table 4)."""

"""The l2 penalty and weight decay (section 6.1, Figures 4 and 16, Table 3)."""

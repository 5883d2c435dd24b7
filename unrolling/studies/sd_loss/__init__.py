"""The standard deviation loss on paper (section 6.2, Figures 5 and 6)."""

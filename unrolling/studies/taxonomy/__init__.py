"""Methods by metrics (section 3.3, Figure 1)."""

"""What one batch leaves behind in the weights (section 5.1)."""

"""Unlearning methods, one file each (section 3.3)."""

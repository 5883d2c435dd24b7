"""The unlearning error as a proxy of the verification error (section 8.3, Figures 9, 11, 12)."""

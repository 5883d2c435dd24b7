"""What the unlearning error measures (sections 5.2 and 5.3, Figure 3)."""

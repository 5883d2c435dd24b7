"""What the verification error says about other measures (sections 3.2 and 4)."""

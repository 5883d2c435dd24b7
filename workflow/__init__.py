"""Building and checking the book; imports the package, and the package never imports it."""

"""Side by side with peers: ``make bench``, read README.md."""

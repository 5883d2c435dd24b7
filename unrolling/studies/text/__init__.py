"""DistilBERT on IMDB (sections 7, 8.1 and 8.3, Table 2, Figure 10)."""

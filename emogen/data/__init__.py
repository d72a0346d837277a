"""Exchanges: what they are, the files and corpora that hold them, and the batches made of them."""

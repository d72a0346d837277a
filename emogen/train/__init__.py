"""Training loops, and the run around them."""

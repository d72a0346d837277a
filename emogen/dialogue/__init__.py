"""A conversation: the state of its emotions, which emotion to answer with, and which reply fits."""

"""One folder a model: its files, where it is found, and the model that is loaded from it."""

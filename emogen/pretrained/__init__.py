"""Base models: where they are found, pulled and read."""

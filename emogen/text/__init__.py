"""Words, and the tokenizers that make ids of text."""

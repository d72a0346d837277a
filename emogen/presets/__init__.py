"""Settings of the training commands as TOML files."""

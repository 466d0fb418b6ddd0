"""Configurations known to work, as TOML files."""

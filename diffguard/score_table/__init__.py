"""The table of scores on disk."""

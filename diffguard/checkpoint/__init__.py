"""The detector checkpoint: one file that holds all that evaluation needs."""

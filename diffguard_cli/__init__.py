"""The commands: train, evaluate, tune, convert, compact."""

"""Detection methods on the engine."""

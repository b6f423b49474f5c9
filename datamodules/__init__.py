"""Data: named ID and OOD sets, training batches and the evaluation stream."""

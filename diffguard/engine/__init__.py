"""Continuous batching: many images, any timestep and label per row, always a full batch."""

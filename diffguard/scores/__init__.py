"""Distances, baselines and calibration: from reconstructions and logits to named scores."""

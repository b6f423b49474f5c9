"""The protected classifier: networks, layers, preprocessing, weights, checks."""

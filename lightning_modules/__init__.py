"""LightningModules: thin shells around `diffguard`."""

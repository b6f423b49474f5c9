"""LightningModules: thin shells around `diffguard`."""

import os

# A thread that waits by spinning slows a machine many times over as soon as another program wants
# its cores. OpenMP reads this when torch is loaded, so it must stand before.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

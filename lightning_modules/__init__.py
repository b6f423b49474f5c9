"""LightningModules: thin shells around `diffguard`."""

import os

# By default, threads that wait for others spin for long, which slows a machine many times over as
# soon as another program wants its cores; spinning briefly costs nothing when it is idle. OpenMP
# reads this when torch is loaded, so it must stand before.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

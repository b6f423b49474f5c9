"""The commands: train, evaluate, tune, convert, compact."""

import os

# By default, waiting threads spin for a long time. As soon as another program needs the cores, that
# slows a machine down many times over; spinning briefly costs nothing on an idle machine. OpenMP
# reads this variable when torch is loaded, so it must be set before.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

"""What needs Lightning: modules, callbacks and trainers around `diffguard`."""

"""A detector in the interfaces of OpenOOD and pytorch-ood."""

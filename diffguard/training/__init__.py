"""Training in plain PyTorch: settings, optimizers, learning rate schedules, the denoising loss."""

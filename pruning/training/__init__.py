"""The training loop, evaluation, optimizers and devices."""

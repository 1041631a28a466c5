"""The training loop: config, losses, conditioning, adapters, optimisers, checkpoints."""

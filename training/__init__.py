"""Everything that trains JoVA: synthetic data, preparation, losses, the loop and its measures."""

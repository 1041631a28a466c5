"""Speed and memory, side by side with what the hardware needs at least."""

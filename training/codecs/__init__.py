"""Small VAEs, vocoders and text encoders, trained from scratch."""

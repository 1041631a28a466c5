"""Other people's weights in, `from_pretrained` folders out: one table per model family, one engine for all."""

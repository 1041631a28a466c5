"""What this repository made with its own tools: jova-tiny, its evidence, ablations, the demo."""

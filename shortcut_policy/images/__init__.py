"""Image generation with the objectives, the trainer and the checkpoints of the policies."""

"""The tasks of Meta-World, one by one and many together, with their scripted experts."""

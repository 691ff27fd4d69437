"""Commands: each reads its configuration and calls the rest of the library."""

"""Franka Kitchen, for demonstrations that a user brings."""

"""ALOHA's two arms in simulation, for demonstrations that a user brings."""

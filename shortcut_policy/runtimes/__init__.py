"""Policies as graphs that other runtimes execute, from the observation to the executed actions.

`graph` makes the graph, one module a runtime writes and loads it, `export` writes the folder that holds it
with its manifest. What `compile` and ``scripts/export.py`` make acts through `Policy.act` like any other
policy.
"""

"""The manipulation tasks of OGBench, with experts that follow its oracles."""

"""Rollouts with explicit seeds, and the intervals, tables, figures and reports made from them."""

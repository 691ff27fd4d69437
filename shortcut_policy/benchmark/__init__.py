"""The harness: methods side by side on the same starts, in tables, figures and a report."""

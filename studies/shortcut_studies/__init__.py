"""Research on the method: sweeps, step errors, automatic steps, figures. No part of the wheel."""

from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[1] / "configs"

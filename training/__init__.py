"""Training of the fast focus network; reading order: `data`, `model`, `train`, `export`, `report`."""

"""What several experiments are made of: models and their training, agreement of scores, curves, densities."""

"""Data, losses, recipes, export and evaluation. Imports models, never app."""

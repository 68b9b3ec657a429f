"""Evaluation: metrics, baselines, and the runner that applies both to bundles and to any other method."""

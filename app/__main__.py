"""Lets ``python -m app`` do what ``pairfuse`` does."""

from app.cli import main

main()

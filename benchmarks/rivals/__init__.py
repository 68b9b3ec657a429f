"""Other ways to put the same model behind HTTP, written as somebody would who knows the tools.

They take the same form as ``POST /fuse`` and answer the same picture, without pairfuse's limits, options and metrics.
Nothing here imports ``app``: each runs in an interpreter that has only its own libraries.
"""

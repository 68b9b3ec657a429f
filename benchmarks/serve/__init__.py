"""Measures the running service beside its own bare pipeline and beside other servers of the same model."""

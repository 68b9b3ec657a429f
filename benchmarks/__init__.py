"""Measures every released model on this machine: operations, times, a whole request, memory."""

"""Sends the service what clients should never send, and checks that every request is accounted for."""

"""Slot probing: which token positions and channels steer a fused image, and what each of them does (§3)."""

"""Makes pairs from single images for tasks with few real pairs: multi-focus and multi-exposure, each with its truth."""

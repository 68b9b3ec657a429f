"""Images and pairs from folders, kept in memory, and their augmentation."""

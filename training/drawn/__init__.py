"""Draws aligned pairs of streets, seen by a colour camera and by a thermal camera: images that are nobody's."""

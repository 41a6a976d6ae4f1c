"""Doors to other systems.  Each knows the public face of a log, and needs an extra of its own."""

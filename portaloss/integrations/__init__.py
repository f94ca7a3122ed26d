"""Switches for libraries that have losses of their own; each module needs its library and loads it when imported."""

"""Switches for libraries that have losses of their own. Importing a module here imports its library."""

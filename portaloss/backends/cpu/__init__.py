"""The ``cpu`` backend: NumPy and SciPy on cache-sized tiles, on all cores. ``backend.py`` is its entrance."""

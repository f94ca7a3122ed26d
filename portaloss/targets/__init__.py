"""Compiles every kernel for every supported GPU, with none at hand: ``python -m portaloss targets``."""

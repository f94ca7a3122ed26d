"""Compiles every kernel for every supported GPU, without a GPU: ``python -m portaloss targets``."""

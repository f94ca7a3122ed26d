"""How fast the losses are, beside PyTorch on the same machine: ``python -m portaloss bench``."""

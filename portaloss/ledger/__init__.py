"""Counts what kernels do on emulated chips, and predicts what limits them on a GPU: ``python -m portaloss ledger``."""

"""The parity matrix: every SKU on every backend of the machine, against the reference."""

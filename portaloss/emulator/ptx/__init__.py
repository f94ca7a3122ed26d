"""NVIDIA's PTX: a parser and an executor."""

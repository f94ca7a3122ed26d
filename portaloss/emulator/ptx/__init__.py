"""NVIDIA's PTX: ``executor.Executor`` runs the kernel of a PTX text.

``syntax`` reads the text, ``decode`` turns instructions into steps, ``machine`` runs them. The instructions themselves
are in ``integer``, ``floating``, ``conversion``, ``access`` and ``control``.
"""

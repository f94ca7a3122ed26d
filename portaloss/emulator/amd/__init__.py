"""AMD's instruction sets, from the assembly text that Triton emits: CDNA (64 lanes) and RDNA 3 and 4 (32 lanes).

From text to results: ``assembly`` parses, ``decode`` turns instructions into Python functions of ``waves`` (the
registers), ``executor`` runs them. The instructions by theme: ``scalar``, ``vector_integer``, ``vector_float``,
``division``, ``conversions``, ``comparisons``, ``lanes``, ``memory_operations``, ``control`` and ``waits``.
"""

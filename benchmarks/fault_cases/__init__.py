"""The attacks of ``benchmarks/faults.py``, a file each."""

"""Files, locks, threads, process groups, memory, fast kernels."""

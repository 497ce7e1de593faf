"""Files, locks, threads, process groups, memory, fast kernels: what all other packages may use."""

"""Our measured programs, one file a row; their contract is at the top of `benchmarks.harness`."""

"""What Runstream costs and carries, measured beside its peers: ``python -m benchmarks``."""

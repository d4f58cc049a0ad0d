"""Other chat servers under the same load, in the same run as ours: `python -m benchmarks.peers`."""

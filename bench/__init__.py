"""Benchmarks: our data plane beside a reference, both in the same run. See README.md."""

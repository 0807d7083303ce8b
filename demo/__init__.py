"""The demo: what the README promises, done and checked; the end-to-end tests use the same scenario."""

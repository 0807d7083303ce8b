"""Pure functions: observed facts -> desired objects, desired and actual -> changes. No clock, no IO, no logging."""

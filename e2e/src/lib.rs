//! End-to-end tests, demo and benchmarks.

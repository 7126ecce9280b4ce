//! Reproducible container images without Docker.

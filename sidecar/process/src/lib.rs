//! What both programs need of their process: logging, signals, readiness, serving HTTP.

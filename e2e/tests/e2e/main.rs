//! Conch on a real cluster. Run by `make test`, one test at a time: they share the cluster, and some break it.

mod chart;
mod election;
mod faults;
mod footprint;
mod injection;
mod operator;
mod policies;
mod support;

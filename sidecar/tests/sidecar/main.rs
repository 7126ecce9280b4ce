//! The sidecar from outside: its API over a register in memory, and the real process against a real API server.

#[cfg(test)]
mod api;
#[cfg(test)]
mod ending;
#[cfg(test)]
mod fitness;
#[cfg(test)]
mod guard;
#[cfg(test)]
mod over_postgres;
#[cfg(test)]
mod pod;
#[cfg(test)]
#[path = "../../stores/tests/postgres/server.rs"]
#[expect(dead_code, reason = "the tests of the store need more of it")]
mod postgres_server;
#[cfg(test)]
mod process;
#[cfg(test)]
mod programs;
#[cfg(test)]
mod proof;
#[cfg(test)]
mod real;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod term;
mod transfer;
#[cfg(test)]
mod wrapped_over_a_lease;
#[cfg(test)]
mod wrapper;
#[cfg(test)]
mod wrapping;

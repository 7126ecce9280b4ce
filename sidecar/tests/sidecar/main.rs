//! The sidecar from outside: its API over a register in memory, and the real process against a real API server.

#[cfg(test)]
mod api;
#[cfg(test)]
mod document;
#[cfg(test)]
mod elector;
#[cfg(test)]
mod ending;
#[cfg(test)]
mod exposition;
#[cfg(test)]
mod fitness;
#[cfg(test)]
mod flood;
#[cfg(test)]
mod guard;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod lease_server;
#[cfg(test)]
mod observed;
#[cfg(test)]
mod openapi;
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
mod running;
#[cfg(test)]
mod states;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod term;
#[cfg(test)]
mod transfer;
#[cfg(test)]
mod wrapped_over_a_lease;
#[cfg(test)]
mod wrapper;
#[cfg(test)]
mod wrapping;

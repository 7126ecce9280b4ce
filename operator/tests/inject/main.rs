//! Injection: golden pods, properties, and a real API server where there is one.

#[cfg(test)]
mod api_server;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod stamping;
#[cfg(test)]
mod support;

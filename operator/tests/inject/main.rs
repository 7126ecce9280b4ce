//! Injection: golden pods, properties, the webhook, and a real cluster where there is one.

#[cfg(test)]
mod admission;
#[cfg(test)]
mod api_server;
#[cfg(test)]
mod certificates;
#[cfg(test)]
mod cluster;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod stamping;
#[cfg(test)]
mod support;
#[cfg(test)]
mod webhook;

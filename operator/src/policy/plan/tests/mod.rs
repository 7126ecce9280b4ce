//! The plan, situation by situation.

mod election;
mod page;
mod world;

//! Whom a fault hits.

use super::{node::Node, scenario::Who};

/// The position of that node among `nodes`; `None`: there is none.
pub(crate) fn find(nodes: &[Node], who: Who, now: u64) -> Option<usize> {
    let alive: Vec<usize> = (0..nodes.len()).filter(|index| !nodes[*index].gone).collect();
    let any = |number: usize| alive.get(number % alive.len().max(1)).copied();
    match who {
        Who::Pod(number) => any(number),
        Who::Leader => alive.iter().copied().find(|index| nodes[*index].leads(now)).or_else(|| any(0)),
    }
}

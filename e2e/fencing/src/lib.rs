//! What the fencing token protects from, shown on real databases.
//!
//! The set test: the pods of an election append elements to one set by reading it, changing it and writing it back, as
//! programs do. In each round the leader's whole pod is stopped (SIGSTOP) between its read and its write, until another
//! pod leads and has appended, and then let go on. Without a guard its late write must destroy what others were told is
//! safe, or the test proves nothing; with each recipe of `docs/fencing.md` nothing may be lost or given out twice.
//!
//! The recipes run from the text of the document: what does not stand there is not tested, and what stands there is.

pub mod client;
mod document;
mod history;
mod pods;
mod prerequisites;
pub mod redis_recipes;
pub mod report;
mod resource;
mod servers;
pub mod set;
pub mod sql_recipes;

use std::path::PathBuf;

pub use prerequisites::missing_packages;

/// What a check needs from the outside.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The program that leads: `conch-fencing`, whose `client` command it is.
    pub client: PathBuf,
    /// The sidecar: `conch-fencing-sidecar`.
    pub sidecar: PathBuf,
    /// An administrator's kubeconfig of a cluster that may be used for tests.
    pub kubeconfig: PathBuf,
    /// How many leaders are paused in each set test.
    pub pauses: usize,
}

/// Hands the path of each check of a recipe to the macro `$with`: the binary and the tests run the same ones.
#[macro_export]
macro_rules! for_each_recipe {
    ($with:ident) => {
        $with! {
            sql_recipes::a_row_takes_writes_of_the_highest_token_alone
            sql_recipes::a_stale_write_that_waits_for_the_row_is_refused_when_it_gets_it
            sql_recipes::a_guard_without_raising_the_token_first_loses_what_was_acknowledged
            sql_recipes::a_look_and_then_a_write_is_no_guard
            sql_recipes::the_function_lets_transactions_of_the_highest_token_alone_go_on
            sql_recipes::a_new_term_waits_for_open_transactions_of_the_old_one_and_refuses_the_next
            sql_recipes::a_transaction_that_is_frozen_is_ended_by_the_server
            redis_recipes::a_key_takes_writes_of_the_highest_token_alone
            redis_recipes::a_malformed_token_is_refused
            redis_recipes::tokens_as_numbers_of_lua_let_a_stale_leader_pass
        }
    };
}

//! A row on a real PostgreSQL server keeps what every store promises, directly and through `PgBouncer`. Where one of them is not
//! installed, each test that needs it says that it was skipped.

#[cfg(test)]
mod backup;
#[cfg(test)]
#[path = "../common/mod.rs"]
mod common;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod hints;
#[cfg(test)]
mod pooler;
#[cfg(test)]
mod relay;
#[cfg(test)]
mod server;
#[cfg(test)]
mod servers;
#[cfg(test)]
mod table;

#[cfg(test)]
use {common::conformance, table::row};

conformance!(row);

checks!(faults with row:
    a_request_that_was_given_up_costs_its_connection_and_not_the_next_one,
    requests_go_over_one_connection_while_nothing_breaks,
    a_write_whose_answer_was_lost_is_found_by_reading_back,
    a_write_that_comes_late_is_refused_once_somebody_else_wrote,
    a_server_that_is_away_is_unavailable_and_changes_say_so_and_come_back,
    a_row_that_somebody_locks_is_a_time_out_and_nothing_is_left_waiting,
    what_people_write_into_the_row_is_unknown_and_breaks_nothing,
    a_table_is_created_once_and_only_where_that_is_wanted_and_allowed,
    a_table_without_the_trigger_is_refused,
    without_rights_or_with_a_wrong_password_everything_is_denied,
    the_password_is_never_logged_and_what_to_do_is,
);

checks!(hints with row:
    a_follower_hears_of_a_write_at_once_and_looks_once,
    a_holder_does_not_look_at_what_it_wrote,
    what_a_person_writes_is_seen_without_a_hint,
    a_hint_that_lies_is_looked_at_and_told_to_nobody,
    a_follower_whose_network_was_lost_hears_soon_after_it_is_back,
    requests_take_this_long,
);

checks!(backup with row:
    a_row_that_was_put_back_is_unknown_until_a_candidate_writes_it,
    what_was_copied_from_another_election_is_unknown,
);

/// Makes one test of each function that starts servers of its own.
#[cfg(test)]
macro_rules! on_own_servers {
    ($($module:ident::$check:ident),* $(,)?) => {$(
        #[tokio::test]
        async fn $check() {
            match server::programs() {
                Some(_) => $module::$check().await,
                None => conformance::skipped(stringify!($check)),
            }
        }
    )*};
}

#[cfg(test)]
on_own_servers!(
    backup::a_table_that_was_dropped_and_restored_is_unknown,
    backup::a_server_that_went_back_in_time_is_noticed_by_who_remembers,
    backup::a_failover_that_lost_writes_is_unknown_to_everybody_and_tokens_rise,
    backup::a_server_that_does_not_flush_promises_less,
    faults::settings_of_others_neither_lose_writes_nor_lead_to_another_table,
    servers::what_was_confirmed_outlives_a_stop_and_a_crash,
    servers::a_frozen_server_answers_nothing_and_loses_nothing,
    servers::of_several_hosts_the_one_that_takes_writes_is_used_also_if_the_first_is_frozen,
    servers::over_tls_the_certificate_is_always_verified,
);

#[cfg(test)]
mod through_a_pooler {
    use crate::{
        checks, conformance,
        pooler::{self, pooled},
    };

    conformance!(pooled);

    checks!(pooler with pooled:
        a_candidate_behind_a_pooler_and_one_beside_it_see_each_other,
        a_pooler_that_restarts_costs_a_request_and_nothing_else,
    );
}

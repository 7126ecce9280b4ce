//! A Lease on a real API server keeps what every store promises. `CONCH_TEST_KUBECONFIG` names an administrator's
//! kubeconfig of a cluster that may be used for tests; without it each test says that it was skipped.

#[cfg(test)]
mod backup;
#[cfg(test)]
#[path = "../common/mod.rs"]
mod common;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod latency;
#[cfg(test)]
mod lease;
#[cfg(test)]
mod proxy;
#[cfg(test)]
mod rights;
#[cfg(test)]
mod silence;

#[cfg(test)]
use {common::conformance, lease::lease};

conformance!(lease);

checks!(faults with lease:
    a_request_that_was_given_up_costs_its_connection_and_not_the_next_one,
    requests_go_over_one_connection_while_nothing_breaks,
    a_server_that_is_away_is_unavailable_and_changes_say_so_and_come_back,
    a_token_that_was_refused_is_read_again_at_once,
    what_the_operator_writes_of_a_deleted_pod_is_known_at_once,
    a_write_keeps_labels_owners_finalizers_and_foreign_annotations,
    a_follower_sends_nothing_while_the_holder_renews,
    a_watch_that_fell_silent_is_replaced_once_a_request_knows_more,
);

checks!(backup with lease:
    what_was_put_back_is_unknown_until_a_candidate_writes_it,
    what_was_put_back_is_led_a_whole_lease_later,
);

checks!(silence with lease:
    a_follower_whose_network_comes_late_hears_soon,
    a_follower_whose_connections_were_lost_hears_soon_after_its_network_is_back,
    a_watch_that_fell_silent_is_replaced_when_a_renewal_is_overdue,
);

checks!(rights with lease:
    four_verbs_on_one_name_are_all_that_a_sidecar_needs,
    without_the_right_to_create_a_missing_lease_is_denied,
    without_any_right_everything_is_denied,
    where_watching_is_forbidden_changes_are_polled_until_it_is_allowed,
);

checks!(latency with lease: requests_take_this_long);

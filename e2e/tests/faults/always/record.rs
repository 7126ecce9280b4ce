//! A person with `kubectl` and the election's Lease.

use serde_json::Value;

use crate::stage::Scenario;

#[test]
fn a_deleted_lease_ends_the_term_and_is_made_again() {
    Scenario::new("53 kubectl delete lease", "delete-lease").run(|stage| {
        let event = conch_probe::now();
        stage.kubectl(&["delete", "lease", &stage.probes.lease()]);
        stage.new_term(event, event)
    });
}

#[test]
fn a_cleared_holder_ends_the_term_and_nobody_leads_until_the_lease_is_over() {
    Scenario::new("55 kubectl patch clears the holder", "clear-holder").run(|stage| {
        let event = conch_probe::now();
        stage.patch_holder(&Value::Null);
        stage.new_term(event, event)
    });
}

#[test]
fn an_overwritten_holder_ends_the_term_and_nobody_leads_until_the_lease_is_over() {
    Scenario::new("55 kubectl patch overwrites the holder", "overwrite").run(|stage| {
        let event = conch_probe::now();
        stage.patch_holder(&"somebody".into());
        stage.new_term(event, event)
    });
}

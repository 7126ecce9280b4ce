//! The recipes of docs/fencing.md, and the set test with few pauses. `CONCH_TEST_KUBECONFIG` names an administrator's
//! kubeconfig of a cluster that may be used for tests; PostgreSQL and Redis are installed where that is possible.

#[cfg(test)]
use conch_fencing::{Setting, for_each_recipe, missing_packages, redis_recipes, set, sql_recipes};
#[cfg(test)]
use std::{env, io::Write as _, thread};

/// Says that this test could not run here, in the form that is counted.
#[cfg(test)]
fn skipped(why: &str) {
    let thread = thread::current();
    let line = format!("SKIPPED {}: {why}\n", thread.name().unwrap_or("a test"));
    // Not by println, which is shown of failed tests only.
    std::io::stdout().write_all(line.as_bytes()).unwrap();
}

#[cfg(test)]
fn databases_are_there() -> bool {
    let missing = missing_packages();
    if !missing.is_empty() {
        skipped(&format!("install the packages {}", missing.join(" ")));
    }
    missing.is_empty()
}

#[cfg(test)]
fn setting() -> Option<Setting> {
    let Some(kubeconfig) = env::var_os("CONCH_TEST_KUBECONFIG") else {
        skipped("CONCH_TEST_KUBECONFIG names no cluster");
        return None;
    };
    let client = env!("CARGO_BIN_EXE_conch-fencing").into();
    let sidecar = env!("CARGO_BIN_EXE_conch-fencing-sidecar").into();
    databases_are_there().then(|| Setting { client, sidecar, kubeconfig: kubeconfig.into(), pauses: 3 })
}

macro_rules! tests {
    ($($module:ident::$name:ident)*) => {
        $(#[test]
        fn $name() {
            if databases_are_there() {
                $module::$name().unwrap();
            }
        })*
    };
}
for_each_recipe!(tests);

#[test]
fn leaders_that_are_paused_lose_nothing_in_postgres_behind_a_guard_and_something_without() {
    let Some(setting) = setting() else { return };
    for shown in set::in_postgres(&setting).unwrap() {
        shown.check().unwrap();
    }
}

#[test]
fn leaders_that_are_paused_lose_nothing_in_redis_behind_a_guard_and_something_without() {
    let Some(setting) = setting() else { return };
    for shown in set::in_redis(&setting).unwrap() {
        shown.check().unwrap();
    }
}

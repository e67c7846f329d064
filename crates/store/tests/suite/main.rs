//! One suite for all media: a test of the store is run against each of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod auditing;
mod backups;
mod file;
mod model;
mod place;
mod records;
mod replicas;
mod sealing;
mod server;

use std::future::Future;

use libtest_mimic::{Arguments, Trial};
use place::Medium;

fn main() {
    if let Some(path) = std::env::var_os(file::WRITER) {
        return block_on(file::write_until_killed(path.into()));
    }
    if server::programs().is_none() {
        eprintln!("PostgreSQL is not installed (tools/deps.sh test installs it): its trials are not run");
    }
    let mut trials = Vec::new();
    macro_rules! each {
        ($($module:ident::$test:ident),* $(,)?) => {
            $(trials.push(trial(concat!("file::", stringify!($test)), || $module::$test(Medium::File)));)*
            $(trials.push(on_postgres(concat!("postgres::", stringify!($test)), || $module::$test(Medium::Postgres)));)*
        };
    }
    each![
        model::a_store_is_a_map,
        records::what_is_written_is_read,
        records::a_precondition_that_does_not_hold_changes_nothing,
        records::listings_are_in_order_and_in_parts,
        records::long_values_make_short_parts,
        records::records_expire,
        records::watchers_see_changes,
        records::concurrent_changes_are_one_after_the_other,
        auditing::a_log_is_appended_read_and_followed,
        auditing::a_log_and_a_change_go_together,
        auditing::appends_are_one_after_the_other,
        auditing::a_whole_log_verifies,
        auditing::the_first_broken_entry_is_named,
        auditing::exports_verify_by_themselves,
        backups::a_backup_comes_back_on_every_medium,
        backups::a_state_hash_is_of_everything,
        backups::a_backup_is_of_one_moment,
        backups::a_backup_that_is_not_whole_is_refused,
        sealing::nothing_is_stored_in_the_clear,
        sealing::a_changed_or_moved_value_is_refused,
        sealing::another_key_does_not_open_a_store,
        sealing::keys_are_replaced_during_work,
        sealing::a_tenant_has_a_key_of_its_own,
        sealing::a_key_that_cannot_be_used_is_told_when_the_store_opens,
    ];
    trials.push(trial("memory::a_store_in_memory_is_gone_with_it", records::a_store_in_memory_is_gone_with_it));
    macro_rules! replicas {
        ($($test:ident),* $(,)?) => {
            $(trials.push(on_postgres(concat!("postgres::", stringify!($test)), replicas::$test));)*
        };
    }
    replicas![
        replicas_start_at_once,
        replicas_see_each_other,
        a_log_is_followed_from_another_replica,
        a_log_is_append_only,
        a_key_is_replaced_under_the_other_replica,
        a_cut_connection_is_made_again,
        postgresql_may_go_away_for_ten_seconds,
        a_killed_server_loses_nothing_that_was_said_to_be_written,
        a_password_is_not_shown,
        another_version_is_refused,
        tls_is_what_its_mode_says,
    ];
    trials.push(trial("file::only_its_owner_may_use_it", file::only_its_owner_may_use_it));
    trials.push(trial("file::one_process_has_it", file::one_process_has_it));
    trials.push(trial("file::another_format_is_refused", file::another_format_is_refused));
    trials.push(trial(
        "file::what_was_said_to_be_written_survives_kill_9",
        file::what_was_said_to_be_written_survives_kill_9,
    ));
    let conclusion = libtest_mimic::run(&Arguments::from_args(), trials);
    server::Server::stop_shared();
    conclusion.exit();
}

fn block_on(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work);
}

fn trial<W: Future<Output = ()>>(name: &str, test: impl FnOnce() -> W + Send + 'static) -> Trial {
    Trial::test(name, move || {
        block_on(test());
        Ok(())
    })
}

/// Ignored where PostgreSQL is not installed.
fn on_postgres<W: Future<Output = ()>>(name: &str, test: impl FnOnce() -> W + Send + 'static) -> Trial {
    match server::programs() {
        Some(_) => trial(name, test),
        None => Trial::test(name, || Err("not run".into())).with_ignored_flag(true),
    }
}

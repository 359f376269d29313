//! The packages on real machines: systemd as process 1, of Debian 12 (252) and
//! Debian 13 (257). `tests/systemd-host.sh` boots them in namespaces.

mod crowd;
mod doctor;
mod first_hour;
mod machine;
mod package;
mod profiles;
mod restarts;
mod rpm;
mod service;
mod tunnel;
mod units;
mod user;
mod watchdog;

use self::machine::Suite;

/// Runs a story on every version.
macro_rules! on_both {
    ($($name:ident => $story:path;)*) => {
        $(mod $name {
            #[test]
            fn on_debian_12() {
                $story(super::Suite::Bookworm);
            }

            #[test]
            fn on_debian_13() {
                $story(super::Suite::Trixie);
            }
        })*
    };
}

on_both! {
    every_unit_is_understood_and_confined => super::units::story;
    a_package_is_installed_upgraded_removed_and_purged => super::package::story;
    the_first_hour_breaks_and_hides_nothing => super::first_hour::story;
    a_wedged_gateway_is_killed_and_comes_back => super::watchdog::story;
    restarts_refuse_nobody => super::restarts::story;
    sixteen_profiles_do_not_notice_each_other => super::profiles::story;
    a_service_is_what_moltbotctl_makes_of_it => super::service::story;
    a_tunnel_is_a_service_of_its_user => super::tunnel::story;
    a_user_without_a_session_keeps_the_gateway => super::user::story;
}

#[test]
fn an_rpm_carries_what_the_deb_does_and_lives_like_it() {
    rpm::story(Suite::Trixie);
}

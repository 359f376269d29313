//! What an attack of our own found.

use super::Finding;

const fn finding(what: &'static str, tests: &'static [&'static str]) -> Finding {
    Finding { what, tests }
}

pub(super) const FINDINGS: &[Finding] = &[
    finding(
        "who may talk to the assistant, and the assistant itself, changed the rules of a node and ran anything there",
        &[
            "a_stranger_of_an_open_bot_cannot_touch_a_node",
            "the_rules_of_a_node_are_reached_by_their_own_method_and_by_no_other",
            "even_the_owner_changes_the_rules_of_a_node_by_their_own_method_only",
            "the_flags_of_a_node_are_a_ceiling_that_its_file_cannot_raise",
            "a_gateway_changes_the_file_only_when_the_owner_allowed_it",
        ],
    ),
    finding(
        "frames of 62 kB from a stranger, or of 2 MB from a node, kept the gateway from serving anybody and from \
         feeding its watchdog",
        &[
            "strangers_with_costly_frames_hold_up_nobody",
            "two_nodes_with_frames_of_two_megabytes_hold_up_nobody",
            "the_work_stops_with_the_violations_that_are_listed",
        ],
    ),
    finding(
        "tools did not ask who had asked: strangers, quotations and nodes had them act",
        &[
            "a_tool_acts_for_the_owner_and_for_nobody_else",
            "a_strangers_words_that_the_owner_quotes_or_forwards_cannot_touch_a_node",
            "a_node_that_lends_a_camera_cannot_touch_another_one",
            "an_admitted_friend_cannot_touch_a_node",
            "an_idea_of_the_agents_own_cannot_touch_a_node",
        ],
    ),
    finding(
        "restrictions in the configuration were accepted and did nothing",
        &[
            "restrictions_of_the_configuration_hold_for_tools_and_commands",
            "a_restriction_that_cannot_be_honoured_is_an_error",
            "a_gateway_that_was_locked_down_is_locked_down_here_and_each_restriction_is_named",
        ],
    ),
    finding(
        "variables and start-up files ran programs that the list of a node does not name",
        &[
            "a_node_runs_what_is_on_its_list_and_nothing_around_it",
            "a_program_on_a_node_sees_an_environment_of_its_account",
            "what_is_no_ascii_space_separates_nothing_and_makes_a_script_unknown",
        ],
    ),
    finding(
        "unread answers, unfinished frames and long names took as much memory as a client liked",
        &[
            "the_list_is_bounded_in_bytes_whatever_hosts_say_of_themselves",
            "a_text_of_connect_that_is_too_long_is_refused_and_named",
        ],
    ),
    finding(
        "a paired or revoked device guessed the shared secret without limit",
        &[
            "a_paired_device_cannot_guess_the_shared_secret_without_limit",
            "a_revoked_device_cannot_guess_the_shared_secret_without_limit",
        ],
    ),
    finding(
        "the ceiling of the shared secret did not bind devices that it had paired",
        &[
            "cve_2026_22172_the_shared_secret_does_not_choose_its_own_scopes",
            "a_lowered_ceiling_also_binds_devices_that_the_secret_paired_before",
        ],
    ),
    finding(
        "a device whose clock is wrong was refused although it had signed the nonce",
        &["a_client_whose_clock_is_wrong_is_let_in_by_the_nonce_it_signed"],
    ),
    finding(
        "a program went on after the device that had started it was revoked",
        &["a_program_on_a_node_ends_when_the_device_that_started_it_is_revoked"],
    ),
    finding(
        "a forged backup took memory without bound, waited for ever on a pipe, or wrote beside the configuration",
        &[
            "however_much_a_backup_claims_to_hold_little_memory_is_used",
            "pipes_devices_and_folders_are_refused_without_waiting_for_them",
            "a_forged_backup_writes_nothing_beside_the_configuration_but_configuration",
            "a_command_to_be_run_by_hand_can_be_copied_whoever_chose_the_names_in_it",
        ],
    ),
    finding(
        "a command was shown differently from what ran",
        &["what_is_shown_of_a_command_on_a_node_is_what_runs", "what_hides_or_reorders_is_escaped"],
    ),
    finding(
        "rare forwarding headers left a client local; two `Host` headers were accepted",
        &[
            "any_trace_of_a_proxy_makes_it_not_local",
            "a_forwarded_connection_is_never_local",
            "a_request_that_names_two_hosts_is_refused",
            "a_page_of_another_site_learns_nothing_from_the_plain_pages",
        ],
    ),
    finding(
        "a local program chose its address through a trusted proxy on loopback; proofs without a nonce piled up",
        &["remembered_signatures_are_bounded_and_none_that_was_forgotten_counts_again"],
    ),
    finding(
        "a change of 300,000 keys held the configuration for minutes",
        &["the_largest_configuration_is_written_and_many_changes_of_it_are_not"],
    ),
];

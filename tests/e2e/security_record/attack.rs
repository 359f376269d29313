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
            "a_hostile_client_costs_the_others_no_answer",
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
        "silent sockets kept every newcomer and the control socket out; visitors of a proxy shared one place",
        &[
            "silent_sockets_of_this_host_keep_nobody_out",
            "silent_peers_of_the_control_socket_keep_its_user_out_of_nothing",
            "one_visitor_of_serve_takes_no_place_of_another_or_of_its_own",
            "wrong_guesses_of_one_visitor_of_serve_lock_no_other_out",
        ],
    ),
    finding(
        "unread answers, unfinished frames and long names took as much memory as a client liked",
        &[
            "a_client_that_leaves_too_many_answers_unread_is_sent_away_and_its_memory_is_back",
            "when_all_answers_are_too_many_the_client_with_the_most_goes",
            "unfinished_messages_of_many_clients_share_a_budget",
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
        "a node without power or network stayed listed as connected",
        &["a_node_that_gives_no_sign_of_life_is_gone_and_its_call_fails"],
    ),
    finding(
        "`config.get` showed secrets under keys that it did not know",
        &["none_of_many_planted_secrets_is_shown_anywhere"],
    ),
    finding(
        "a session of another host changed what could hand over this one without the secret",
        &["s21_dangerous_configuration_from_another_host_needs_the_secret_again"],
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
        &[
            "a_program_of_another_user_does_not_choose_its_address_as_a_trusted_proxy",
            "remembered_signatures_are_bounded_and_none_that_was_forgotten_counts_again",
        ],
    ),
    finding(
        "a change of 300,000 keys held the configuration for minutes",
        &["the_largest_configuration_is_written_and_many_changes_of_it_are_not"],
    ),
    finding(
        "violations of RFC 6455 ended the connection without their close code",
        &["every_violation_gets_its_close_code_and_every_good_case_its_answer"],
    ),
];

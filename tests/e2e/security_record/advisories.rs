//! The published advisories for OpenClaw's gateway, and what each means here.

use super::{
    Advisory,
    Answer::{DoesNotApply, Tests},
};

pub(super) const ADVISORIES: &[Advisory] = &[
    Advisory {
        ids: &["CVE-2026-25253", "GHSA-g8p2-7wf7-98mq"],
        weakness: "a page takes the gateway's address from its query and sends the stored token there",
        answer: Tests(&[
            "cve_2026_25253_a_page_of_another_site_cannot_use_a_stolen_token",
            "cve_2026_25253_cve_2026_32025_only_the_own_origin_may_connect",
            "local_secrets_are_not_sent_to_a_typed_foreign_host",
        ]),
    },
    Advisory {
        ids: &["CVE-2026-32025", "GHSA-jmmg-jqc7-5qf4"],
        weakness: "a page guesses the password over loopback, where neither origin nor rate is checked",
        answer: Tests(&[
            "cve_2026_32025_a_page_cannot_guess_the_secret_over_loopback",
            "cve_2026_25253_cve_2026_32025_only_the_own_origin_may_connect",
            "this_host_is_limited_too_but_gently",
        ]),
    },
    Advisory {
        ids: &["CVE-2026-26317", "GHSA-3fqr-4cg8-h96q"],
        weakness: "routes that change something accept a cross-origin POST",
        answer: Tests(&["cve_2026_26317_plain_http_changes_nothing"]),
    },
    Advisory {
        ids: &["openclaw#16485"],
        weakness: "any loopback origin may connect to any loopback port",
        answer: Tests(&["a_page_of_another_origin_is_refused_before_the_upgrade"]),
    },
    Advisory {
        ids: &["openclaw#1795"],
        weakness: "behind a proxy on the same host everybody is local and paired at once",
        answer: Tests(&[
            "a_forwarded_connection_is_never_local",
            "behind_a_proxy_that_is_not_trusted_nobody_is_local",
        ]),
    },
    Advisory {
        ids: &["CVE-2026-53832", "GHSA-rggc-m335-3wvj"],
        weakness: "any local process forges a trusted proxy's identity headers",
        answer: Tests(&[
            "cve_2026_53832_identity_headers_of_a_proxy_log_nobody_in",
            "a_program_of_this_host_cannot_pass_itself_off_as_the_tailnet",
        ]),
    },
    Advisory {
        ids: &["CVE-2026-53817", "GHSA-chr9-m4q2-76hw"],
        weakness: "a client that passes for local gets a lasting admin token",
        answer: Tests(&["cve_2026_53817_a_spoofed_origin_host_mints_no_device_token"]),
    },
    Advisory {
        ids: &["GHSA-qjpc-qf9m-xwmr"],
        weakness: "behind a trusted proxy, declared scopes count before pairing",
        answer: Tests(&[
            "ghsa_qjpc_qf9m_xwmr_scopes_that_a_client_declares_count_for_nothing_before_pairing",
        ]),
    },
    Advisory {
        ids: &["CVE-2026-22172", "GHSA-rqpp-rjj8-7wv8"],
        weakness: "who knows the shared secret chooses his own scopes",
        answer: Tests(&[
            "cve_2026_22172_the_shared_secret_does_not_choose_its_own_scopes",
            "a_client_that_knows_only_the_secret_gets_at_most_the_configured_scopes",
        ]),
    },
    Advisory {
        ids: &["CVE-2026-32042", "CVE-2026-35663"],
        weakness: "an unpaired device, or one that reconnects, keeps the scopes it claims",
        answer: Tests(&[
            "cve_2026_32042_cve_2026_35663_a_reconnect_claims_no_scope_that_was_not_granted",
        ]),
    },
    Advisory {
        ids: &["CVE-2026-28472"],
        weakness: "the device check is skipped because a token is there, not because it is right",
        answer: Tests(&["cve_2026_28472_a_token_that_was_not_verified_replaces_no_device_key"]),
    },
    Advisory {
        ids: &["GHSA-4jpw-hj22-2xmc", "CVE-2026-42422", "CVE-2026-35639", "GHSA-8v95-qqcm-qp9h"],
        weakness: "approving or rotating grants more than the caller holds",
        answer: Tests(&[
            "ghsa_4jpw_hj22_2xmc_rotating_grants_nothing_the_caller_lacks",
            "a_grant_is_within_the_callers_scopes_for_every_pair",
            "nobody_grants_more_than_he_holds",
        ]),
    },
    Advisory {
        ids: &["CVE-2026-53862", "CVE-2026-53852", "GHSA-83w9-h5wv-j9xm"],
        weakness: "asking again, with fewer scopes or an old code, widens an approval",
        answer: Tests(&[
            "cve_2026_53862_cve_2026_53852_asking_again_widens_no_approval",
            "cve_2026_32042_cve_2026_35663_a_reconnect_claims_no_scope_that_was_not_granted",
        ]),
    },
    Advisory {
        ids: &["CVE-2026-34503", "CVE-2026-53843"],
        weakness: "a revoked device keeps its socket, or its token comes back",
        answer: Tests(&[
            "cve_2026_34503_a_removed_node_loses_its_socket",
            "revoking_closes_the_sockets_and_nothing_is_minted_again",
            "a_removed_node_is_cut_off_and_its_calls_fail",
        ]),
    },
    Advisory {
        ids: &[
            "CVE-2026-41916",
            "GHSA-68x5-xx89-w9mm",
            "GHSA-m8wm-r5vq-qjpg",
            "GHSA-275c-xpvc-jgfw",
        ],
        weakness: "secrets are read once at start, so that a rotation is not honoured",
        answer: Tests(&[
            "another_token_counts_at_once_and_ends_what_the_old_one_opened",
            "narrower_scopes_reach_those_who_are_connected",
            "rotating_closes_the_sockets_of_the_old_token",
        ]),
    },
    Advisory {
        ids: &["CVE-2026-28464", "CVE-2026-28475", "CVE-2026-41407"],
        weakness: "the time of a comparison tells about the secret or its length",
        answer: Tests(&[
            "cve_2026_28464_cve_2026_28475_cve_2026_41407_secrets_are_compared_in_one_place",
            "a_secret_matches_itself_only_and_shows_nothing",
        ]),
    },
    Advisory {
        ids: &["openclaw#14137", "openclaw#16876", "openclaw#64162"],
        weakness: "guesses are not limited",
        answer: Tests(&[
            "guessing_gets_slower_and_never_locks_out_a_proven_device",
            "a_stranger_waits_after_ten_failures",
            "guesses_at_the_secret_are_limited",
        ]),
    },
    Advisory {
        ids: &["GHSA-5847-rm3g-23mw"],
        weakness: "an address written as IPv4 and as IPv6 has two budgets of guesses",
        answer: Tests(&["one_host_under_two_spellings_has_one_budget"]),
    },
    Advisory {
        ids: &["openclaw#50637", "openclaw#57647"],
        weakness: "a `device` in the request switches the limiter off",
        answer: Tests(&[
            "pr_50637_pr_57647_a_device_does_not_switch_the_limiter_off",
            "a_paired_device_cannot_guess_the_shared_secret_without_limit",
        ]),
    },
    Advisory {
        ids: &["GHSA-5p6w-wmh3-frfr", "openclaw#59292", "openclaw#116526"],
        weakness: "loopback, or a proxy on it, is exempt from the limiter",
        answer: Tests(&[
            "this_host_is_limited_too_but_gently",
            "strangers_behind_a_proxy_that_is_not_trusted_do_not_lock_out_this_host",
            "a_proxys_clients_are_limited_one_by_one",
        ]),
    },
    Advisory {
        ids: &["CVE-2026-32045", "GHSA-hff7-ccv5-52f8"],
        weakness: "an identity of the tailnet opens HTTP routes without a token",
        answer: Tests(&[
            "cve_2026_32045_an_identity_of_the_tailnet_opens_no_page",
            "only_this_host_and_holders_of_the_secret_get_them",
        ]),
    },
    Advisory {
        ids: &["openclaw#50630", "openclaw#87286"],
        weakness: "without authentication behind Tailscale Serve the tailnet is admin",
        answer: Tests(&[
            "what_would_let_strangers_in_ends_with_77",
            "the_internet_gets_in_with_a_good_password_only",
        ]),
    },
    Advisory {
        ids: &["CVE-2026-25593", "GHSA-g55j-c2v4-pjcg"],
        weakness: "`config.apply` is heard before login",
        answer: Tests(&[
            "cve_2026_25593_nothing_but_connect_is_heard_before_connect",
            "the_methods_and_who_may_call_them",
        ]),
    },
    Advisory {
        ids: &["CVE-2026-41349", "GHSA-v3qc-wrwx-j3pw"],
        weakness: "an agent switches its own consent gate off with `config.patch`",
        answer: Tests(&["cve_2026_41349_an_agent_has_no_tool_that_changes_the_configuration"]),
    },
    Advisory {
        ids: &["CVE-2026-28466"],
        weakness: "a caller sends along the approval of its own command",
        answer: Tests(&[
            "cve_2026_28466_a_caller_cannot_approve_its_own_command",
            "approvals_that_a_client_makes_up_do_not_reach_the_node",
        ]),
    },
    Advisory {
        ids: &[
            "CVE-2026-32065",
            "GHSA-hjvp-qhm6-wrh2",
            "GHSA-2j8v-hwgc-x698",
            "GHSA-8f46-3xx3-8c9m",
        ],
        weakness: "an approval does not bind the arguments, the environment or the node",
        answer: DoesNotApply(
            "the gateway keeps no approvals; the node's own rules are looked at when the command runs",
        ),
    },
    Advisory {
        ids: &["PT-2026-22443"],
        weakness: "a client with the right to write approves commands with `/approve`",
        answer: DoesNotApply("there is no `/approve`, and no approval that it could give"),
    },
    Advisory {
        ids: &["CVE-2026-53829", "GHSA-xww8-gqvh-92x9"],
        weakness: "what is shown is cut, so that it is not what runs",
        answer: Tests(&[
            "what_is_shown_of_a_command_on_a_node_is_what_runs",
            "a_long_command_says_how_much_of_it_is_missing",
        ]),
    },
    Advisory {
        ids: &["CVE-2026-53816"],
        weakness: "a node forges the events of programs",
        answer: Tests(&["cve_2026_53816_a_node_that_may_run_no_programs_tells_of_none"]),
    },
    Advisory {
        ids: &["GHSA-943q-mwmv-hhvh"],
        weakness: "HTTP reaches tools that start sessions",
        answer: Tests(&["ghsa_943q_mwmv_hhvh_no_tool_is_reached_over_plain_http"]),
    },
    Advisory {
        ids: &["CVE-2026-28482", "CVE-2026-28459", "GHSA-5xfq-5mr7-426q"],
        weakness: "a session's key or file leads out of its folder",
        answer: Tests(&[
            "cve_2026_28482_a_session_key_is_never_a_path",
            "an_archive_stays_in_its_folder_and_links_its_lines",
        ]),
    },
    Advisory {
        ids: &["CVE-2026-32020", "CVE-2026-44996"],
        weakness: "static files are read through links",
        answer: DoesNotApply("the only page is part of the program; no file of the disk is served"),
    },
    Advisory {
        ids: &["openclaw#4880", "openclaw#4930", "CVE-2026-32846"],
        weakness: "a path of a media file reads any file",
        answer: Tests(&[
            "only_files_below_a_root_may_be_sent",
            "files_go_out_from_allowed_folders_only",
        ]),
    },
    Advisory {
        ids: &["GHSA-v865-p3gq-hw6m"],
        weakness: "a path that is encoded twice passes the check of its prefix",
        answer: Tests(&["ghsa_v865_p3gq_hw6m_an_encoded_path_reaches_no_other_page"]),
    },
    Advisory {
        ids: &["CVE-2026-26322", "CVE-2026-28467"],
        weakness: "a tool or an attachment names an address, and the gateway connects to it",
        answer: Tests(&["cve_2026_26322_cve_2026_28467_no_address_that_somebody_names_is_opened"]),
    },
    Advisory {
        ids: &["CVE-2026-26324", "CVE-2026-43582", "CVE-2026-53859"],
        weakness: "a guard against requests to inner addresses is got around by another spelling",
        answer: DoesNotApply(
            "no address of a peer is opened, so there is no guard; model servers are named in the configuration",
        ),
    },
    Advisory {
        ids: &["GHSA-77q5-rr5v-x43q", "openclaw#42507"],
        weakness: "`127.evil.com` counts as loopback because of how it begins",
        answer: Tests(&[
            "only_literal_loopback_addresses_and_localhost_are_local",
            "credentials_are_not_sent_in_the_clear_to_another_host",
        ]),
    },
    Advisory {
        ids: &["CVE-2026-26327", "GHSA-pv58-549p-qh99", "CVE-2026-41393"],
        weakness: "what a neighbour announces decides the route and replaces the pinned certificate",
        answer: Tests(&[
            "a_hostile_announcement_is_shown_harmlessly_and_changes_nothing",
            "the_service_record_says_where_and_the_text_does_not",
            "a_wrong_pin_sends_nothing_and_says_what_was_seen",
        ]),
    },
    Advisory {
        ids: &[
            "CVE-2026-41399",
            "GHSA-mfg5-7q5g-f37j",
            "CVE-2026-42437",
            "CVE-2026-41400",
            "CVE-2026-32062",
        ],
        weakness: "sockets and frames are not limited before login",
        answer: Tests(&[
            "silent_sockets_of_this_host_keep_nobody_out",
            "a_stranger_may_not_send_more_than_64_kib",
            "a_silent_stranger_is_shown_the_door",
            "a_hostile_client_costs_the_others_no_answer",
        ]),
    },
    Advisory {
        ids: &["CVE-2026-28478"],
        weakness: "the body of a webhook is collected without limit",
        answer: Tests(&["cve_2026_28478_no_body_is_collected"]),
    },
    Advisory {
        ids: &["openclaw#50614", "openclaw#5995", "openclaw#19137", "openclaw#66773"],
        weakness: "secrets reach logs, transcripts and answers",
        answer: Tests(&[
            "no_secret_is_logged_or_told",
            "the_configuration_is_shown_without_its_secrets",
            "the_log_is_for_administrators",
        ]),
    },
    Advisory {
        ids: &["CVE-2026-53856"],
        weakness: "a configuration that is put back can be read by others",
        answer: Tests(&[
            "a_file_keeps_its_mode_and_its_copies_are_closed_to_others",
            "what_it_writes_is_for_its_user_alone",
        ]),
    },
    Advisory {
        ids: &[
            "CVE-2026-41396",
            "CVE-2026-53858",
            "GHSA-wc84-j36w-pw4x",
            "CVE-2026-53865",
            "GHSA-rx78-29qr-5hq8",
        ],
        weakness: "a file in the workspace sets what the daemon trusts",
        answer: Tests(&[
            "cve_2026_41396_cve_2026_53858_cve_2026_53865_a_file_of_the_folder_steers_nothing",
        ]),
    },
    Advisory {
        ids: &["CVE-2026-24763", "CVE-2026-25157"],
        weakness: "a path or an ssh target becomes part of a shell command",
        answer: Tests(&[
            "the_daemon_starts_programs_in_one_place_and_never_a_shell",
            "what_could_be_more_than_a_name_is_refused",
            "no_target_reaches_ssh_as_an_option_or_a_shell_as_a_command",
        ]),
    },
    Advisory {
        ids: &["openclaw#20809"],
        weakness: "the token of a hook opens the gateway",
        answer: Tests(&["a_hook_token_does_not_open_the_gateway"]),
    },
    Advisory {
        ids: &["openclaw#21158"],
        weakness: "a credential goes over `ws://` to another host",
        answer: Tests(&["credentials_are_not_sent_in_the_clear_to_another_host"]),
    },
    Advisory {
        ids: &["CVE-2026-24764"],
        weakness: "a prompt injection makes the agent act on the gateway for a stranger",
        answer: Tests(&[
            "a_stranger_of_an_open_bot_cannot_touch_a_node",
            "a_strangers_words_that_the_owner_quotes_or_forwards_cannot_touch_a_node",
            "a_tool_acts_for_the_owner_and_for_nobody_else",
            "cve_2026_41349_an_agent_has_no_tool_that_changes_the_configuration",
        ]),
    },
];

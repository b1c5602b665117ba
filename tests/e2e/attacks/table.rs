//! The table of attacks. A test of this module compares the quoted texts of an answer. Other words are for the reader.

/// A row.
pub(super) struct Attack {
    pub(super) what: &'static str,
    pub(super) answer: &'static str,
    pub(super) unharmed: &'static str,
    pub(super) file: &'static str,
    pub(super) test: &'static str,
}

const fn row(
    what: &'static str,
    answer: &'static str,
    unharmed: &'static str,
    file: &'static str,
    test: &'static str,
) -> Attack {
    Attack { what, answer, unharmed, file, test }
}

const CONNECTION: &str = "tests/conformance/connection.rs";
const START: &str = "tests/conformance/start.rs";
const OUTPUT: &str = "tests/conformance/output.rs";
const REQUESTS: &str = "tests/conformance/requests.rs";
const CALLERS: &str = "tests/e2e/attacks/callers.rs";
const ASTRA: &str = "tests/e2e/attacks/astra.rs";
const CREDS: &str = "tests/e2e/creds.rs";
const POLICIES: &str = "tests/e2e/policies.rs";
const TEAM: &str = "tests/e2e/team.rs";
const BAD_INPUT: &str = "tests/e2e/bad_input.rs";
const SECRETS: &str = "tests/e2e/secrets.rs";
const CATALOGUE: &str = "tests/e2e/catalogue/mod.rs";
const OWNERSHIP: &str = "tests/e2e/ownership.rs";
const RACES: &str = "tests/e2e/races.rs";

/// Groups of rows.
pub(super) const ATTACKS: &[(&str, &[Attack])] = &[
    ("Another user of the machine", LOCAL),
    ("A caller of the API", CALLER),
    ("Astra, or a server in its place", HOSTILE_ASTRA),
    ("A reader of logs and answers", READER),
];

const LOCAL: &[Attack] = &[
    row(
        "connects to the plugin's socket without a certificate, with another certificate, or with the server's \
         certificate but not its key",
        "the TLS handshake fails, and the plugin sends no byte",
        "the server's own connection",
        CONNECTION,
        "p06_only_the_host_of_the_plugin_can_connect",
    ),
    row(
        "opens connections and sends nothing",
        "the connections wait, and delay no other connection",
        "new connections of the server",
        CONNECTION,
        "p06_a_silent_client_does_not_delay_others",
    ),
    row(
        "searches for the socket",
        "the socket is in a directory that only its owner can enter",
        "the socket",
        START,
        "p09_by_default_only_the_owner_can_reach_the_socket",
    ),
    row(
        "starts the plugin without a server",
        "the plugin prints its purpose, and stops",
        "all data: the plugin has no storage without a server",
        START,
        "p01_without_the_cookie_the_plugin_exits_with_a_message",
    ),
    row(
        "replaces the running plugin, so that the server talks to the attacker's program",
        "the plugin has a new certificate at each start, and the server accepts only this certificate",
        "the requests of the server",
        CONNECTION,
        "p07_each_start_has_a_new_certificate",
    ),
    row(
        "stops reading the log, so that the writer of the log waits",
        "the plugin drops log lines, and requests continue",
        "requests, and the shutdown of the process",
        OUTPUT,
        "p42_an_unread_log_blocks_no_request_and_no_shutdown",
    ),
];

const CALLER: &[Attack] = &[
    row(
        "requests a role that the policy does not name, in every spelling of its path: letter case, percent signs, \
         look-alikes, `.` and `..`, slashes, line ends, the organization's id in place of its name",
        "403, 400 or 404, and no mint",
        "the role",
        POLICIES,
        "no_spelling_of_a_path_bypasses_the_workload_policy",
    ),
    row(
        "has a policy for everything except one spelling of a role, or for a part of its path",
        "403, 400 or 404, and no mint",
        "the role",
        CREDS,
        "no_spelling_of_a_path_bypasses_a_policy",
    ),
    row(
        "names another organization or role in query or body than in the path that a policy allows",
        "a token of the role in the path",
        "the other role",
        CREDS,
        "parameters_cannot_change_the_role_that_the_path_names",
    ),
    row(
        "has a policy for one organization, or for everything except one organization below `orgs`, and tries spellings of the \
         paths of another organization",
        "no answer with data of the other organization, and no change",
        "the other organization",
        TEAM,
        "no_spelling_of_a_path_bypasses_the_policy_of_another_team",
    ),
    row(
        "deletes the root token, or a token of another organization, as a token of the organization in the path",
        "204, and no request to Astra",
        "the token",
        TEAM,
        "only_tokens_of_the_inventory_can_be_deleted_by_path",
    ),
    row(
        "tries each method on each path with a policy for another job",
        "403",
        "everything that the policy does not name",
        POLICIES,
        "each_policy_allows_its_requests_and_no_others",
    ),
    row(
        "sends hostile values in every field of every path: 1 MiB of text, NUL, `../`, `:`, line ends, escape sequences, \
         look-alikes, JSON of every wrong type, numbers out of range, nesting 100 000 deep",
        "4xx with a short text, or the engine accepts the value as plain text. The engine never returns 5xx. Vault \
         itself returns 500 for some values ([limits of JSON](servers.md#where-the-servers-differ))",
        "another organization's config, role, tokens and leases; the process",
        CALLERS,
        "hostile_values_in_any_field_change_no_other_org",
    ),
    row(
        "sends ids and names that would point outside their place in the storage",
        "400 with the name of the field",
        "all stored data",
        BAD_INPUT,
        "config_refuses_wrong_values",
    ),
    row(
        "sends endless metadata for a token, so that nobody can list the inventory",
        "400 `metadata must not have more than 64 KiB of keys and values`",
        "storage and inventory. The engine mints no token",
        CALLERS,
        "metadata_above_64_kib_is_refused",
    ),
    row(
        "sends 16 MiB of certificates",
        "400 `ca_cert must not be longer than 512 KiB`",
        "the config",
        CALLERS,
        "a_ca_cert_above_512_kib_is_refused",
    ),
    row(
        "puts line ends into `url`, `astra_token` or `org_id`, to add a header or a host",
        "400 `must`",
        "the config. The engine sends nothing",
        CALLERS,
        "line_ends_in_a_config_are_refused",
    ),
    row(
        "sets a `url` of the machine itself or its network, such as a metadata service, to read its answers. Also \
         tries files, sockets and other protocols",
        "400 `could not verify the root token: the answer of Astra cannot be used: …`",
        "the answers of the service: the engine never quotes a successful answer",
        CALLERS,
        "a_url_inside_the_network_reveals_no_answer",
    ),
    row(
        "sends a request that the host may not send, with 1 MiB of data",
        "the same as for an unknown path. The engine reads and stores nothing",
        "storage",
        REQUESTS,
        "p23_resolve_path_with_a_hostile_body_makes_no_call",
    ),
    row(
        "requests one name many times at once, to get more than one token",
        "one token, and 400 for the others",
        "the rule that each name has one token",
        RACES,
        "sixteen_callers_for_one_name_get_one_token_quickly",
    ),
    row(
        "names another person as the owner of a token",
        "400 `metadata must not have the key \"owner\"`, if `default_metadata` of the role sets the owner",
        "the owner in the inventory, and in the description in Astra",
        OWNERSHIP,
        "defaults_come_from_the_entity_of_the_caller",
    ),
];

const HOSTILE_ASTRA: &[Attack] = &[
    row(
        "redirects to a host of the attacker",
        "502 `Astra answered with an unexpected status (3…)`",
        "the root token: the engine never calls the other host",
        ASTRA,
        "a_redirect_to_another_host_is_not_followed",
    ),
    row(
        "answers with 100 MB",
        "502 `it is longer than 1048576 bytes`",
        "memory: the process grows by less than 48 MiB",
        ASTRA,
        "an_answer_of_100_mb_does_not_fill_the_memory",
    ),
    row(
        "sends its answer one byte at a time",
        "504 `Astra did not answer within 2s`",
        "the caller's time: `request_timeout` limits the whole call",
        ASTRA,
        "a_very_slow_answer_ends_with_a_timeout",
    ),
    row(
        "has a certificate of another CA or another host, or an expired certificate",
        "400 `could not verify the root token: Astra cannot be reached: …certificate`",
        "the root token: the engine sends no request, with or without `verify_connection`",
        ASTRA,
        "a_server_with_a_wrong_certificate_gets_no_request",
    ),
    row(
        "returns a client id that is a path, empty or too long, or that contains `..`, `:`, NUL or line ends",
        "502 `the answer of Astra cannot be used`",
        "all paths of Astra's API except the path of the new token. The engine finds the token by its description and \
         deletes it",
        ASTRA,
        "a_client_id_cannot_change_the_path_of_a_call",
    ),
    row(
        "puts line ends, spaces, escape sequences or 100 kB into the token, to damage the file that the caller's \
         template writes",
        "502 `its token has characters or a length that no token has`",
        "the caller's file. The engine replaces an invalid time of issue by its own time",
        ASTRA,
        "a_token_with_invalid_characters_reaches_no_caller",
    ),
    row(
        "sends endless headers, thousands of headers, headers of 4 MiB, or headers with NUL or bare line ends. Sends \
         lengths that are negative, double or too large. Sends broken chunks, a wrong status, version or protocol, or \
         nothing",
        "502 `failed to mint a token: …`",
        "other organizations. The engine quotes nothing of the answer",
        ASTRA,
        "only_the_mint_with_hostile_headers_fails",
    ),
    row(
        "sends endless interim answers (1xx)",
        "504 `Astra did not answer within 2s`",
        "the caller's time, other organizations",
        ASTRA,
        "endless_interim_answers_end_with_a_timeout",
    ),
    row(
        "sends JSON with 200 000 levels, with 30 000 keys, with huge numbers or half characters. Sends compressed \
         data, a web page, or endless brackets",
        "502 `failed to mint a token: …the answer of Astra cannot be used`",
        "the stack, memory, other organizations. The engine quotes nothing of the answer",
        ASTRA,
        "only_the_mint_with_a_hostile_body_fails",
    ),
    row(
        "sends an endless reason, with escape sequences and line ends for the reader's terminal and log",
        "400 `failed to mint a token: Astra rejected the request (400: …...`",
        "terminal and log: the engine removes control characters and keeps 300 characters",
        ASTRA,
        "a_long_reason_is_shortened_and_cleaned",
    ),
    row(
        "lists 60 000 roles",
        "502 `it has more than 10000 roles`",
        "storage: the engine imports no role",
        ASTRA,
        "a_list_of_60_000_roles_is_not_imported",
    ),
    row(
        "lists roles with hostile names and ids",
        "200 `were skipped, because they have no usable id and name`",
        "other paths of the storage, and existing roles",
        ASTRA,
        "imported_roles_have_only_safe_names",
    ),
    row(
        "returns a token of another organization, a token that the engine already has, or the root token",
        "502, and no caller gets the token",
        "the token in the answer",
        "src/tests/failures.rs",
        "a_token_that_does_not_match_the_request_is_deleted",
    ),
    row(
        "returns nonsense or the old root token to a rotation",
        "502",
        "the root token: the config keeps the old one",
        "src/tests/rotate_root.rs",
        "an_unusable_answer_of_astra_changes_nothing",
    ),
    row(
        "answers a deletion with \"not found\" in the form of a proxy, or with a rejection that contains this text",
        "the lease stays, and Vault retries its revocation",
        "the record of a live token",
        "src/tests/lease.rs",
        "only_an_answer_of_astra_itself_proves_that_a_token_is_deleted",
    ),
    row(
        "answers a tidy with an empty list, with a part of the list, or with the list of another organization",
        "an error",
        "records and tokens: nothing is deleted",
        "src/tests/tidy.rs",
        "a_list_that_cannot_be_used_deletes_nothing",
    ),
    row(
        "fails in any other way of the [fault catalogue](operations.md#astra-errors)",
        "see the fault catalogue",
        "see the fault catalogue",
        CATALOGUE,
        "every_fault_of_astra_has_the_documented_outcome",
    ),
];

const READER: &[Attack] = &[
    row(
        "reads the log at level trace",
        "no token in it",
        "root tokens, tokens",
        SECRETS,
        "a_log_at_trace_level_holds_no_secret",
    ),
    row(
        "reads the server's audit log",
        "each secret is a hash",
        "root tokens, tokens",
        "tests/e2e/audit.rs",
        "the_audit_log_holds_no_secret_in_clear_text",
    ),
    row(
        "reads the answers and the logs after a look-up of a found token",
        "no token in them; in the audit log, each secret is a hash",
        "the found token",
        "tests/e2e/lookup.rs",
        "a_looked_up_token_is_in_no_answer_and_in_no_log",
    ),
    row(
        "reads errors of Astra that quote a token, in any letter case",
        "the engine removes the text after `AstraCS`",
        "root tokens, tokens",
        "src/api/body.rs",
        "quoted_texts_hide_tokens",
    ),
    row(
        "sends a wrong root token, so that the answer quotes it",
        "400 without the root token",
        "a root token with a typing error",
        "src/tests/input.rs",
        "no_error_quotes_a_wrong_root_token",
    ),
];

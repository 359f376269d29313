//! What a peer may cost: the limits of everything that crosses the socket, each
//! with its reason.
//!
//! A limit belongs here when a peer could otherwise decide how much memory or
//! work the gateway spends on it. Limits of lengths are also part of the JSON
//! Schema, so that a client reads them where it reads the types.

use crate::{Role, Scope, Scopes};

/// Violations that an answer lists. A person mends the first few and tries
/// again; a frame can hold thousands.
pub const VIOLATIONS: usize = 16;

/// Most text of the violations in an answer, in bytes: an answer must not be
/// larger than what it answers by more than a constant.
pub const VIOLATION_BYTES: usize = 4096;

/// Longest message of an error, in characters; the list of violations fits.
pub const ERROR_CHARS: usize = 8192;

/// Longest id of a request and longest idempotency key, in characters. The one
/// is repeated in every answer, the other is kept for minutes; clients use
/// UUIDs.
pub const REQUEST_ID_CHARS: usize = 256;

/// Longest key of a conversation that is begun or changed, in characters: the
/// ids of agent, channel, account, chat and topic fit several times over.
pub const SESSION_KEY_CHARS: usize = 512;

/// Longest name of a device, client, host or node, in characters: what a line
/// of a table or a notification holds several times over.
pub const NAME_CHARS: usize = 128;

/// Longest id, version, platform, mode, address or name of a scope or command,
/// in characters. The longest ids in use are hex digests of 64.
pub const WORD_CHARS: usize = 128;

/// Scopes in one request; ten are known.
pub const SCOPES: usize = 64;

/// Capabilities of a node; clients declare fewer than twenty.
pub const CAPS: usize = 128;

/// Commands of a node; clients declare fewer than fifty.
pub const COMMANDS: usize = 256;

/// Permissions of a node; clients report fewer than twenty.
pub const PERMISSIONS: usize = 128;

/// Longest public key in characters: a PEM text of an Ed25519 key has 113.
pub const KEY_CHARS: usize = 1024;

/// Longest signature or nonce in characters; a signature has 86.
pub const SIGNATURE_CHARS: usize = 256;

/// Longest shared secret or device token, in characters.
pub const SECRET_CHARS: usize = 4096;

/// What is kept of a client's description of itself, in characters. Browsers
/// send long ones, and nothing depends on their end: they are cut.
pub const USER_AGENT_CHARS: usize = 512;

/// What is kept of a node's search path, in characters. It is shown to
/// operators only, and some systems have long ones: it is cut.
pub const PATH_ENV_CHARS: usize = 8192;

/// What is kept of the line that a host reports about itself, in characters.
pub const PRESENCE_TEXT_CHARS: usize = 512;

/// Tags, roles or scopes of an entry of the presence list.
pub const PRESENCE_LABELS: usize = 32;

/// Most bytes of the presence list: every client gets it with its hello and
/// again whenever somebody leaves. The newest entries win.
pub const PRESENCE_BYTES: usize = 256 * 1024;

/// Open requests of devices and of nodes for pairing, in all. A person looks
/// through the list; the oldest make room.
pub const PENDING: u32 = 64;

/// Those of them from one address, so that one source does not push out
/// everybody else.
pub const PENDING_PER_ADDRESS: u32 = 8;

/// Frames above it are read on a thread for blocking work, in bytes. Reading a
/// smaller one takes well under a millisecond.
pub const INLINE_BYTES: usize = 16 * 1024;

/// Most bytes of a configuration text that a client sends. The largest in use
/// have some 20 KB.
pub const CONFIG_BYTES: usize = 1024 * 1024;

/// Most values of such a text: comparing and writing takes time for each of
/// them.
pub const CONFIG_VALUES: usize = 20_000;

/// Issues of a configuration that an answer lists.
pub const CONFIG_ISSUES: usize = 64;

/// Bytes that changes of a configuration may have read again, each the whole
/// text: some 400 changes of the largest texts in use, eight of the largest
/// allowed.
pub const CONFIG_EDIT_BYTES: usize = 8 * 1024 * 1024;

/// How complex a JSON text may be. Built values take up to thirty times the
/// room of their text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Json {
    /// Levels of nesting.
    pub depth: usize,
    /// Values, counted as commas and opening brackets.
    pub values: usize,
}

/// What `connect` may hold: the lists of a node that declares all it may have
/// some 700 values.
pub const JSON_BEFORE_LOGIN: Json = Json { depth: 64, values: 2048 };

/// What a node's result may hold that comes as text within a text, where the
/// measure of its frame does not see it. One that holds more is handed on as
/// text.
pub const JSON_OF_A_RESULT: Json = Json { depth: DEPTH, values: MEDIA_VALUES };

/// What a client may send at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frames {
    /// Bytes of a frame; announced as `policy.maxPayload`.
    pub bytes: usize,
    /// Complexity of its text.
    pub json: Json,
}

/// The serde_json parser refuses what is deeper.
const DEPTH: usize = 127;

/// For clients that send no attachments, only parameters: reading operators,
/// and nodes that offer no commands. It is what OpenClaw allows everybody.
const SMALL: Frames = Frames { bytes: 512 * 1024, json: Json { depth: DEPTH, values: 10_000 } };

/// For nodes that run programs: 200,000 characters of output in each of two
/// streams, as clients limit them.
const OUTPUT: Frames = Frames { bytes: 1024 * 1024, json: Json { depth: DEPTH, values: 50_000 } };

/// For clients that send media, files or configurations: as much as
/// `gateway.limits.maxPayload` allows. Those are long texts, not many values.
const MEDIA_VALUES: usize = 200_000;

/// Words at the start of capabilities and commands whose results carry media,
/// pages or files.
const MEDIA: [&str; 11] = [
    "audio", "browser", "camera", "canvas", "desktop", "dir", "file", "fs", "mcp", "photos",
    "screen",
];

impl Frames {
    /// Returns what a client may send, given what it may do and, for a node,
    /// what it offers; at most `max_payload` bytes.
    #[must_use]
    pub fn of<'a>(
        role: Role,
        scopes: &Scopes,
        offered: impl IntoIterator<Item = &'a str>,
        max_payload: usize,
    ) -> Self {
        let media = Self { bytes: max_payload, json: Json { depth: DEPTH, values: MEDIA_VALUES } };
        let limits = match role {
            // An administrator holds both.
            Role::Operator if scopes.holds(Scope::Write) => media,
            Role::Operator => SMALL,
            Role::Node => {
                let mut limits = SMALL;
                for name in offered {
                    let family = name.split('.').next().unwrap_or_default();
                    if MEDIA.contains(&family) {
                        return media;
                    }
                    limits = OUTPUT;
                }
                limits
            }
        };
        Self { bytes: limits.bytes.min(max_payload), ..limits }
    }
}

/// Returns a text cut to a number of characters.
#[must_use]
pub fn cut(text: &str, chars: usize) -> &str {
    text.char_indices().nth(chars).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 16 * 1024 * 1024;

    fn operator(scopes: &[Scope]) -> usize {
        Frames::of(Role::Operator, &Scopes::of(scopes), [], MAX).bytes
    }

    fn node(offered: &[&str]) -> usize {
        Frames::of(Role::Node, &Scopes::default(), offered.iter().copied(), MAX).bytes
    }

    #[test]
    fn who_sends_no_attachments_gets_small_frames() {
        assert_eq!(operator(&[Scope::Admin]), MAX);
        assert_eq!(operator(&[Scope::Write]), MAX);
        assert_eq!(operator(&[Scope::Read, Scope::Pairing, Scope::Approvals]), SMALL.bytes);
        assert_eq!(operator(&[]), SMALL.bytes);
    }

    #[test]
    fn a_node_gets_what_its_commands_need() {
        assert_eq!(node(&[]), SMALL.bytes);
        assert_eq!(node(&["system", "system.run"]), OUTPUT.bytes);
        assert_eq!(node(&["location.get", "camera.snap"]), MAX);
        assert_eq!(node(&["screen"]), MAX);
        assert_eq!(node(&["cameraman.snap"]), OUTPUT.bytes);
    }

    #[test]
    fn nobody_gets_more_than_the_configuration_says() {
        let offered = ["system.run"];
        let limits = Frames::of(Role::Node, &Scopes::default(), offered, 1000);
        assert_eq!(limits.bytes, 1000);
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(cut("äöü", 2), "äö");
        assert_eq!(cut("äöü", 3), "äöü");
        assert_eq!(cut("", 3), "");
    }
}

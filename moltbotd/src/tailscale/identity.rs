//! Who a request through Tailscale Serve is from.
//!
//! Serve tells in headers, and any program on this host can send the same. So
//! they count only when the connection was opened by the user tailscaled runs
//! as, and `tailscale whois` says the same of the address it came from.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde::Deserialize;
use tokio::{net::UnixStream, sync::Semaphore};

use super::{Tailscale, owner};

/// Where tailscaled listens for its program.
pub(super) const DAEMON_SOCKET: &str = "/run/tailscale/tailscaled.sock";
const DAEMON_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an answer is good for, as with the reference.
const ANSWER_LASTS: Duration = Duration::from_secs(60);
const ERROR_LASTS: Duration = Duration::from_secs(5);
/// More users than a tailnet has.
const MOST_ANSWERS: usize = 1024;
/// Questions asked at once; further ones wait.
const MOST_QUESTIONS: usize = 4;
/// What `whois` calls hosts that belong to no user.
const TAGGED: &str = "tagged-devices";

/// What the headers of a request claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// `Tailscale-User-Login`.
    pub login: String,
    /// The address in the tailnet it is said to come from.
    pub forwarded: IpAddr,
    /// The other end of the connection.
    pub peer: SocketAddr,
    /// This end of it.
    pub own: SocketAddr,
}

/// Why a claim does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The configuration says so.
    #[error("gateway.auth.allowTailscale is off")]
    NotAllowed,
    /// There is no tailscaled.
    #[error("tailscaled does not answer at its socket")]
    NoDaemon,
    /// This system does not tell.
    #[error("the system does not tell who opened the connection")]
    UnknownOwner,
    /// It was another program.
    #[error("the connection was opened by user {0}, and tailscaled runs as user {1}")]
    NotTailscaled(u32, u32),
    /// The tailnet does not know the address.
    #[error("tailscale whois knows no user at this address")]
    Nobody,
    /// The tailnet says otherwise.
    #[error("tailscale whois names another user")]
    Another,
    /// The tailnet was not asked.
    #[error("{0}")]
    Unasked(String),
}

/// Answers of `tailscale whois`.
#[derive(Debug)]
pub(super) struct Identities {
    answers: Mutex<HashMap<IpAddr, (Instant, Answer)>>,
    questions: Semaphore,
}

/// The login, if there is one.
type Answer = Result<Option<String>, String>;

impl Default for Identities {
    fn default() -> Self {
        Self { answers: Mutex::default(), questions: Semaphore::new(MOST_QUESTIONS) }
    }
}

/// `apitype.WhoIsResponse`, as far as it is needed.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct WhoIs {
    user_profile: Option<UserProfile>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct UserProfile {
    login_name: String,
}

pub(super) async fn verify(tailscale: &Tailscale, claim: &Claim) -> Result<String, Denied> {
    is_daemons(tailscale, claim.peer, claim.own).await?;
    let login = login_at(tailscale, claim.forwarded).await.map_err(Denied::Unasked)?;
    let login = login.filter(|login| login != TAGGED).ok_or(Denied::Nobody)?;
    if login != normal(&claim.login) {
        return Err(Denied::Another);
    }
    Ok(login)
}

/// Returns whether tailscaled opened a connection on this host.
pub(super) async fn is_daemons(
    tailscale: &Tailscale,
    peer: SocketAddr,
    own: SocketAddr,
) -> Result<(), Denied> {
    let daemon = daemon_user(tailscale).await.ok_or(Denied::NoDaemon)?;
    let user = socket_owner(peer, own).await.ok_or(Denied::UnknownOwner)?;
    if user == daemon { Ok(()) } else { Err(Denied::NotTailscaled(user, daemon)) }
}

/// Returns the user that opened the socket at the other end of a connection on
/// this host, as far as the system tells.
pub async fn socket_owner(peer: SocketAddr, own: SocketAddr) -> Option<u32> {
    tokio::task::spawn_blocking(move || owner::of_peer(peer, own)).await.ok().flatten()
}

/// Returns the user that listens at tailscaled's socket.
async fn daemon_user(tailscale: &Tailscale) -> Option<u32> {
    let connecting = UnixStream::connect(tailscale.daemon_socket());
    let daemon = tokio::time::timeout(DAEMON_TIMEOUT, connecting).await.ok()?.ok()?;
    Some(daemon.peer_cred().ok()?.uid())
}

async fn login_at(tailscale: &Tailscale, ip: IpAddr) -> Answer {
    let identities = &tailscale.identities;
    if let Some(answer) = identities.remembered(ip) {
        return answer;
    }
    let Ok(_turn) = identities.questions.acquire().await else { return Err("stopping".into()) };
    // Somebody else may have asked meanwhile.
    if let Some(answer) = identities.remembered(ip) {
        return answer;
    }
    let answer = ask(tailscale, ip).await;
    identities.remember(ip, answer.clone());
    answer
}

async fn ask(tailscale: &Tailscale, ip: IpAddr) -> Answer {
    let program = tailscale.program().map_err(|trouble| trouble.to_string())?;
    let found: WhoIs = program
        .json(&["whois", "--json", &ip.to_string()])
        .await
        .map_err(|trouble| trouble.to_string())?;
    let login = found.user_profile.map(|user| normal(&user.login_name));
    Ok(login.filter(|login| !login.is_empty()))
}

fn normal(login: &str) -> String {
    login.trim().to_lowercase()
}

impl Identities {
    fn remembered(&self, ip: IpAddr) -> Option<Answer> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.get(&ip).filter(|(at, answer)| is_good(*at, answer)).map(|(_, it)| it.clone())
    }

    fn remember(&self, ip: IpAddr, answer: Answer) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= MOST_ANSWERS {
            answers.retain(|_, (at, answer)| is_good(*at, answer));
        }
        if answers.len() < MOST_ANSWERS {
            answers.insert(ip, (Instant::now(), answer));
        }
    }
}

fn is_good(at: Instant, answer: &Answer) -> bool {
    at.elapsed() < if answer.is_ok() { ANSWER_LASTS } else { ERROR_LASTS }
}

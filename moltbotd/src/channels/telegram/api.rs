//! The Bot API client: frankenstein's methods over our own HTTP.
//!
//! Its errors tell apart what certainly did not reach Telegram from what may
//! have: only the former may be repeated without a mark. Answers are read
//! leniently and never in full into a log, and no error shows the address,
//! which contains the token.

use std::{error::Error as _, fmt::Debug, path::PathBuf, sync::OnceLock, time::Duration};

use async_trait::async_trait;
use frankenstein::{AsyncTelegramApi, response::MethodResponse, types::MessageId};
use reqwest::{Client, Response, multipart};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::config::{Secret, Settings};

/// No honest answer of the Bot API comes near this.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// How long an upload or download may take.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(120);

/// Longest pause taken from a refusal, in seconds. Whatever asks for more is
/// asked again after it.
const MAX_RETRY_AFTER: u64 = 60 * 60;

/// One bot at one server.
#[derive(Clone, Debug)]
pub(super) struct Api {
    client: OnceLock<Client>,
    proxy: Option<reqwest::Proxy>,
    root: String,
    token: Secret,
    timeout: Duration,
}

/// Why a request failed.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// It certainly was not carried out.
    #[error("cannot reach the Bot API: {0}")]
    NotSent(String),
    /// It was written, and the answer did not come or was not readable.
    #[error("no usable answer from the Bot API: {0}")]
    Lost(String),
    /// Telegram refused it.
    #[error("{code}: {description}")]
    Refused {
        /// Code of the error.
        code: u64,
        /// Telegram's words.
        description: String,
        /// When to try again, in seconds; at most [`MAX_RETRY_AFTER`].
        retry_after: Option<u64>,
    },
    /// A file to be sent cannot be read, or one to be fetched not be stored.
    #[error("{0}")]
    File(String),
}

#[derive(Deserialize)]
struct Refusal {
    ok: bool,
    #[serde(default)]
    error_code: Option<u64>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    parameters: Option<RefusalParameters>,
}

#[derive(Deserialize)]
struct RefusalParameters {
    #[serde(default)]
    retry_after: Option<u64>,
}

impl Api {
    /// Takes the settings; nothing is connected yet.
    pub(super) fn new(settings: &Settings, token: Secret) -> Result<Self, String> {
        let proxy = settings.proxy.as_deref().map(reqwest::Proxy::all).transpose();
        let proxy = proxy.map_err(|_| "channels.telegram.proxy is not an address".to_owned())?;
        let root = settings.api_root.trim_end_matches('/').to_owned();
        if !root.starts_with("https://") && !root.starts_with("http://") {
            return Err(format!(
                "channels.telegram.apiRoot must start with https:// or http://, not {root:?}"
            ));
        }
        Ok(Self { client: OnceLock::new(), proxy, root, token, timeout: settings.timeout() })
    }

    /// Returns the HTTP client. It is made when first used, because reading the
    /// system's certificates takes longer than the rest of the daemon's start.
    fn client(&self) -> Result<&Client, ApiError> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        // The first one wins; later ones are the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder()
            .user_agent(concat!("moltbotd/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            .redirect(reqwest::redirect::Policy::none());
        if let Some(proxy) = &self.proxy {
            builder = builder.proxy(proxy.clone());
        }
        let client = builder
            .build()
            .map_err(|error| ApiError::NotSent(format!("no HTTPS: {}", describe(error))))?;
        Ok(self.client.get_or_init(|| client))
    }

    /// Calls a method with its own deadline.
    pub(super) async fn call<P, T>(
        &self,
        method: &str,
        params: Option<&P>,
        timeout: Duration,
    ) -> Result<T, ApiError>
    where
        P: Serialize + Sync,
        T: DeserializeOwned,
    {
        let mut request = self.client()?.post(self.address(method)).timeout(timeout);
        if let Some(params) = params {
            request = request.json(params);
        }
        decode(request.send().await.map_err(failure)?).await
    }

    /// Sends what answers with a message, of which only the id matters: a
    /// message that arrived must not count as failed because of an unexpected
    /// field.
    pub(super) async fn post<P>(&self, method: &str, params: &P) -> Result<String, ApiError>
    where
        P: Serialize + Debug + Sync,
    {
        let answer: MethodResponse<MessageId> = self.request(method, Some(params)).await?;
        Ok(answer.result.message_id.to_string())
    }

    /// Sends a file that answers with a message.
    pub(super) async fn upload<P>(
        &self,
        method: &str,
        params: &P,
        field: &str,
        path: PathBuf,
    ) -> Result<String, ApiError>
    where
        P: Serialize + Debug + Sync,
    {
        let files = vec![(field, path)];
        let answer: MethodResponse<MessageId> =
            self.request_with_form_data(method, params, files).await?;
        Ok(answer.result.message_id.to_string())
    }

    /// Fetches a file of at most `max_bytes`; `None` when it is larger.
    pub(super) async fn download(
        &self,
        file_path: &str,
        max_bytes: u64,
    ) -> Result<Option<Vec<u8>>, ApiError> {
        if file_path.split('/').any(|part| part == "..") || file_path.contains(['?', '#', '\\']) {
            return Err(ApiError::File("the file has an impossible address".into()));
        }
        let address = format!("{}/file/bot{}/{file_path}", self.root, self.token.0);
        let mut response =
            self.client()?.get(address).timeout(TRANSFER_TIMEOUT).send().await.map_err(failure)?;
        if !response.status().is_success() {
            let code = u64::from(response.status().as_u16());
            let description = "the file cannot be fetched".into();
            return Err(ApiError::Refused { code, description, retry_after: None });
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failure)? {
            if (bytes.len() + chunk.len()) as u64 > max_bytes {
                return Ok(None);
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Some(bytes))
    }

    fn address(&self, method: &str) -> String {
        format!("{}/bot{}/{method}", self.root, self.token.0)
    }
}

#[async_trait]
impl AsyncTelegramApi for Api {
    type Error = ApiError;

    async fn request<Params, Output>(
        &self,
        method: &str,
        params: Option<Params>,
    ) -> Result<Output, ApiError>
    where
        Params: Serialize + Debug + Send,
        Output: DeserializeOwned,
    {
        let params = params.map(|params| json(&params)).transpose()?;
        self.call(method, params.as_ref(), self.timeout).await
    }

    async fn request_with_form_data<Params, Output>(
        &self,
        method: &str,
        params: Params,
        files: Vec<(&str, PathBuf)>,
    ) -> Result<Output, ApiError>
    where
        Params: Serialize + Debug + Send,
        Output: DeserializeOwned,
    {
        let Value::Object(fields) = json(&params)? else {
            return Err(ApiError::NotSent("parameters are not an object".into()));
        };
        let mut form = multipart::Form::new();
        for (key, value) in fields {
            if files.iter().any(|(field, _)| **field == key) {
                continue;
            }
            form = form.text(key, value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        }
        for (field, path) in files {
            form = form.part(field.to_owned(), part(path).await?);
        }
        let request = self.client()?.post(self.address(method)).timeout(TRANSFER_TIMEOUT);
        decode(request.multipart(form).send().await.map_err(failure)?).await
    }
}

fn json(params: &impl Serialize) -> Result<Value, ApiError> {
    serde_json::to_value(params).map_err(|error| ApiError::NotSent(error.to_string()))
}

async fn part(path: PathBuf) -> Result<multipart::Part, ApiError> {
    let bytes = tokio::fs::read(&path)
        .await
        .map_err(|error| ApiError::File(format!("cannot read the file to be sent: {error}")))?;
    let name = path.file_name().map_or_else(|| "file".into(), |name| name.to_string_lossy());
    Ok(multipart::Part::bytes(bytes).file_name(name.into_owned()))
}

async fn decode<T: DeserializeOwned>(mut response: Response) -> Result<T, ApiError> {
    let status = response.status();
    let retry_header = response
        .headers()
        .get("retry-after")
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok());
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failure)? {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(ApiError::Lost("the answer is too large".into()));
        }
        body.extend_from_slice(&chunk);
    }
    let refusal = serde_json::from_slice::<Refusal>(&body).ok().filter(|refusal| !refusal.ok);
    if let Some(refusal) = refusal {
        let code = refusal.error_code.unwrap_or_else(|| u64::from(status.as_u16()));
        let description = refusal.description.unwrap_or_else(|| "no reason given".into());
        let retry_after =
            refusal.parameters.and_then(|parameters| parameters.retry_after).or(retry_header);
        return Err(refused(code, description, retry_after));
    }
    if !status.is_success() {
        let code = u64::from(status.as_u16());
        return Err(refused(code, "the server answered without a reason".into(), retry_header));
    }
    serde_json::from_slice(&body).map_err(|error| ApiError::Lost(error.to_string()))
}

/// A server in trouble may have done what it was asked for.
fn refused(code: u64, description: String, retry_after: Option<u64>) -> ApiError {
    if code >= 500 {
        return ApiError::Lost(format!("{code}: {description}"));
    }
    let retry_after = retry_after.map(|seconds| seconds.min(MAX_RETRY_AFTER));
    ApiError::Refused { code, description, retry_after }
}

fn failure(error: reqwest::Error) -> ApiError {
    let written = !error.is_connect() && !error.is_builder();
    let text = describe(error);
    if written { ApiError::Lost(text) } else { ApiError::NotSent(text) }
}

/// The address is left out: it contains the token.
fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_pause_is_longer_than_an_hour() {
        let pause = |asked| match refused(429, "flood".into(), asked) {
            ApiError::Refused { retry_after, .. } => retry_after,
            other => panic!("{other:?}"),
        };
        assert_eq!(pause(None), None);
        assert_eq!(pause(Some(35)), Some(35));
        assert_eq!(pause(Some(u64::MAX)), Some(3600));
    }
}

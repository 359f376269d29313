//! Pictures that clients send along, in base64.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;

use super::Image;

const MAX_BYTES: usize = 5_000_000;

/// Reads the attachments of a call. What is no picture is left out; the text
/// of an error is for the caller.
pub fn pictures(attachments: &[Value]) -> Result<Vec<Image>, String> {
    let mut images = Vec::new();
    for (index, attachment) in attachments.iter().enumerate() {
        let text = |field: &str| attachment[field].as_str().filter(|text| !text.is_empty());
        let label = text("fileName")
            .or_else(|| text("type"))
            .map_or_else(|| format!("attachment-{}", index + 1), str::to_owned);
        let Some(content) = attachment["content"].as_str() else {
            return Err(format!("attachment {label}: content must be base64 string"));
        };
        match picture(content) {
            Ok(Some(image)) => images.push(image),
            Ok(None) => tracing::warn!(label, "attachment is no picture; left out"),
            Err(text) => return Err(format!("attachment {label}: {text}")),
        }
    }
    Ok(images)
}

fn picture(content: &str) -> Result<Option<Image>, String> {
    let trimmed = content.trim();
    let base64 = match trimmed.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,")) {
        Some((_, base64)) => base64,
        None => trimmed,
    };
    let size = base64.len() / 4 * 3;
    if size > MAX_BYTES + 3 {
        return Err(format!("exceeds size limit ({size} > {MAX_BYTES} bytes)"));
    }
    let data = STANDARD.decode(base64).map_err(|_| "invalid base64 content".to_owned())?;
    if data.len() > MAX_BYTES {
        return Err(format!("exceeds size limit ({} > {MAX_BYTES} bytes)", data.len()));
    }
    Ok(kind(&data).map(|mime| Image { mime: mime.to_owned(), data: base64.to_owned() }))
}

/// What the bytes say counts, not what the sender says.
fn kind(data: &[u8]) -> Option<&'static str> {
    match data {
        [0x89, b'P', b'N', b'G', ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [b'G', b'I', b'F', b'8', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pictures_are_known_by_their_bytes() {
        let png = STANDARD.encode([0x89, b'P', b'N', b'G', 13, 10]);
        let attachments = [
            json!({"type": "image", "mimeType": "image/jpeg", "content": png}),
            json!({"content": format!("data:image/png;base64,{png}")}),
            json!({"mimeType": "image/png", "content": STANDARD.encode("text")}),
        ];
        let images = pictures(&attachments).unwrap();
        let kinds: Vec<_> = images.iter().map(|image| image.mime.as_str()).collect();
        assert_eq!(kinds, ["image/png", "image/png"]);
    }

    #[test]
    fn refusals_are_worded_like_the_reference() {
        let of = |value| pictures(&[value]).unwrap_err();
        assert_eq!(
            of(json!({"type": "image", "content": "!!!notbase64"})),
            "attachment image: invalid base64 content"
        );
        assert_eq!(of(json!({})), "attachment attachment-1: content must be base64 string");
        let large = STANDARD.encode(vec![0; MAX_BYTES + 1]);
        assert_eq!(
            of(json!({"fileName": "a.png", "content": large})),
            "attachment a.png: exceeds size limit (5000001 > 5000000 bytes)"
        );
    }
}

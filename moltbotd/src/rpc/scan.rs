//! Measures a JSON text before anything is built from it.
//!
//! Built values take up to thirty times the room of their text: 15 MB of `[]`
//! become 340 MB. So the text is counted through once, without a parser, and
//! refused if it would become too much. It need not be JSON: the parser says
//! so afterwards.

use moltbot_protocol::limits::Json;

/// Why a text is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooComplex {
    /// It is nested too deeply.
    #[error("must NOT be nested deeper than {0} levels")]
    Deep(usize),
    /// It holds too many values.
    #[error("must NOT have more than {0} values")]
    Many(usize),
}

/// Checks a text against limits; stops where it is too much.
pub fn measure(text: &str, limits: Json) -> Result<(), TooComplex> {
    let (mut depth, mut values) = (0_usize, 0_usize);
    let mut bytes = text.as_bytes().iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => skip_string(&mut bytes),
            b'[' | b'{' => {
                depth += 1;
                values += 1;
                if depth > limits.depth {
                    return Err(TooComplex::Deep(limits.depth));
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' => values += 1,
            _ => {}
        }
        if values > limits.values {
            return Err(TooComplex::Many(limits.values));
        }
    }
    Ok(())
}

/// Goes behind the closing quote.
fn skip_string(bytes: &mut std::slice::Iter<'_, u8>) {
    while let Some(byte) = bytes.find(|byte| matches!(byte, b'"' | b'\\')) {
        if *byte == b'"' {
            return;
        }
        // Whatever is escaped does not end the text.
        bytes.next();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Json = Json { depth: 3, values: 10 };

    #[test]
    fn levels_and_values_are_counted() {
        assert_eq!(measure("[[[1]]]", LIMITS), Ok(()));
        assert_eq!(measure("[[[[1]]]]", LIMITS), Err(TooComplex::Deep(3)));
        assert_eq!(measure("[1,2,3,4,5,6,7,8,9,10]", LIMITS), Ok(()));
        assert_eq!(measure("[1,2,3,4,5,6,7,8,9,10,11]", LIMITS), Err(TooComplex::Many(10)));
        assert_eq!(measure(&"[],".repeat(10), LIMITS), Err(TooComplex::Many(10)));
    }

    #[test]
    fn what_stands_in_a_text_is_not_counted() {
        let text = serde_json::to_string(&["[".repeat(99), "\",\\".repeat(99), ",".repeat(99)]);
        assert_eq!(measure(&text.unwrap(), LIMITS), Ok(()));
        assert_eq!(measure(r#"["\\",[[["#, LIMITS), Err(TooComplex::Deep(3)));
        assert_eq!(measure(r#"["\"[[[[","#, LIMITS), Ok(()));
    }

    #[test]
    fn what_is_no_json_is_measured_too() {
        for text in ["", "]]]]", "\"", "\"\\", "}{", "\u{feff}[\"ü"] {
            assert_eq!(measure(text, LIMITS), Ok(()), "{text}");
        }
    }
}

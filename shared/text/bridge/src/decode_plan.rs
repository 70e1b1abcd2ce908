//! What a tokenizer's decoder does, arranged so that it can run on a stream: steps on single tokens, then at most one
//! joining step, then steps on the joined text. Derived once from the decoder of tokenizer.json.

use std::collections::HashMap;
use std::sync::LazyLock;

use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{Decoder, DecoderWrapper};

use crate::error::{error, Code, Result};

/// A step that sees one token at a time.
pub enum TokenStep {
    /// Replace and per-token Strip: no context.
    Map(DecoderWrapper),
    /// Metaspace: drops the marker of the very first token, writes a space for others.
    Metaspace(DecoderWrapper),
    /// Runs of "<0xNN>" tokens become the text of their bytes, or one U+FFFD per byte.
    ByteFallback,
}

pub enum DecodePlan {
    /// Byte-level: every token is some bytes; the text is all bytes, read as UTF-8 with U+FFFD for what is not.
    Bytes,
    /// Tokens go through `steps`; what comes out is joined by `joiner`, less `strip_start` times the character at the
    /// start of the whole.
    Pieces { steps: Vec<TokenStep>, joiner: &'static str, strip_start: Option<(char, usize)> },
}

/// The character that the byte-level alphabet (GPT-2, `bytes_to_unicode`) writes for each byte, inverted.
static BYTE_OF_CHAR: LazyLock<HashMap<char, u8>> = LazyLock::new(|| {
    let printable = |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || (174..=255).contains(&b);
    let mut next = 256;
    let mut table = HashMap::new();
    for byte in 0..256u32 {
        let code = if printable(byte) {
            byte
        } else {
            next += 1;
            next - 1
        };
        table.insert(char::from_u32(code).expect("below the surrogates"), byte as u8);
    }
    debug_assert_eq!(table.len(), ByteLevel::alphabet().len());
    table
});

/// A token of a byte-level vocabulary as bytes; one with a foreign character (an added token) stands for itself.
pub fn byte_level_bytes(token: &str) -> Vec<u8> {
    token
        .chars()
        .map(|c| BYTE_OF_CHAR.get(&c).copied())
        .collect::<Option<Vec<u8>>>()
        .unwrap_or_else(|| token.as_bytes().to_vec())
}

/// How many bytes `byte_level_bytes` gives.
pub fn byte_level_len(token: &str) -> usize {
    if token.chars().all(|c| BYTE_OF_CHAR.contains_key(&c)) {
        token.chars().count()
    } else {
        token.len()
    }
}

/// The byte of a "<0xNN>" token.
pub fn fallback_byte(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if hex.len() != 2 {
        return None;
    }
    u8::from_str_radix(hex, 16).ok()
}

impl DecodePlan {
    /// UNIMPLEMENTED for a decoder that looks at neighbours in another way (WordPiece, CTC, ...).
    pub fn new(decoder: Option<&DecoderWrapper>) -> Result<Self> {
        let steps: &[DecoderWrapper] = match decoder {
            // Without a decoder the library joins tokens by spaces.
            None => return Ok(Self::Pieces { steps: vec![], joiner: " ", strip_start: None }),
            Some(DecoderWrapper::Sequence(sequence)) => sequence.get_decoders(),
            Some(single) => std::slice::from_ref(single),
        };
        let mut bytes = false;
        let mut fused = false;
        let mut has_fallback = false;
        let mut token_steps = vec![];
        let mut strip_start = None;
        for step in steps {
            match step {
                DecoderWrapper::ByteLevel(_) if token_steps.is_empty() && !fused => {
                    bytes = true;
                    fused = true;
                }
                DecoderWrapper::Fuse(_) => fused = true,
                DecoderWrapper::Strip(strip) if fused && strip.stop == 0 && strip_start.is_none() && !bytes => {
                    strip_start = Some((strip.content, strip.start));
                }
                DecoderWrapper::Strip(strip) if !fused && strip.stop == 0 => {
                    token_steps.push(TokenStep::Map(step.clone()));
                }
                DecoderWrapper::Replace(_) if !fused => token_steps.push(TokenStep::Map(step.clone())),
                DecoderWrapper::Metaspace(_) if !fused => token_steps.push(TokenStep::Metaspace(step.clone())),
                DecoderWrapper::ByteFallback(_) if !fused && !has_fallback => {
                    has_fallback = true;
                    token_steps.push(TokenStep::ByteFallback);
                }
                other => return unsupported(other),
            }
        }
        if bytes {
            Ok(Self::Bytes)
        } else {
            Ok(Self::Pieces { steps: token_steps, joiner: "", strip_start })
        }
    }

    /// The bytes that `token` stands for in the middle of a text.
    pub fn token_bytes(&self, token: &str) -> Result<Vec<u8>> {
        let Self::Pieces { steps, .. } = self else { return Ok(byte_level_bytes(token)) };
        let mut text = token.to_string();
        for step in steps {
            text = match step {
                TokenStep::Map(decoder) => apply(decoder, text, false)?,
                TokenStep::Metaspace(decoder) => apply(decoder, text, false)?,
                TokenStep::ByteFallback => match fallback_byte(&text) {
                    Some(byte) => return Ok(vec![byte]),
                    None => text,
                },
            };
        }
        Ok(text.into_bytes())
    }
}

/// One token through a decoder that has no context but whether the token is the first.
pub fn apply(decoder: &DecoderWrapper, token: String, first: bool) -> Result<String> {
    let tokens = if first { vec![token] } else { vec![String::new(), token] };
    match decoder.decode_chain(tokens) {
        Ok(mut out) => Ok(out.pop().unwrap_or_default()),
        Err(e) => error(Code::Internal, format!("decoder failed: {e}")),
    }
}

fn unsupported(decoder: &DecoderWrapper) -> Result<DecodePlan> {
    let json = serde_json::to_value(decoder).unwrap_or_default();
    let name = json.get("type").and_then(|t| t.as_str()).unwrap_or("unknown").to_string();
    error(
        Code::Unimplemented,
        format!(
            "decoder {name} is not supported at its place; supported: ByteLevel, or a sequence of Replace, Strip, \
             Metaspace and ByteFallback, then Fuse, then Strip at the start"
        ),
    )
}

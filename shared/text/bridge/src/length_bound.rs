//! How few ids a text can become, told from its bytes alone: what cannot fit is refused before it is encoded.
//!
//! Only for tokenizers whose every part is known to keep the text: a part that removes characters, or stands for many of
//! them by one id, gives no bound.

use serde_json::Value as Json;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{ModelWrapper, Tokenizer};

use crate::decode_plan::byte_level_len;

/// NFC and NFD make a text at most this many times shorter. The longest way to write a character that they shorten, over
/// all of Unicode: U+0390 (2 bytes) as U+1FBE U+0308 U+0301 (7 bytes).
const UNICODE_SHRINK: u64 = 4;

#[derive(Clone, Copy)]
pub struct LengthBound {
    /// Bytes of normalized text that one id can stand for, at most.
    bytes_per_id: u64,
    /// The normalizer may make text that is not ASCII this many times shorter.
    shrink: u64,
    /// Some added token takes the white space beside it with it, however much there is.
    space_is_free: bool,
}

impl LengthBound {
    pub fn new(tokenizer: &Tokenizer) -> Option<Self> {
        let mut bound = Self { bytes_per_id: 1, shrink: 1, space_is_free: false };
        let mut byte_level = false;
        if let Some(normalizer) = tokenizer.get_normalizer() {
            bound.shrink = normalizer_shrink(&serde_json::to_value(normalizer).ok()?, &mut byte_level)?;
        }
        if let Some(pre_tokenizer) = tokenizer.get_pre_tokenizer() {
            keeps_text(&serde_json::to_value(pre_tokenizer).ok()?, &mut byte_level)?;
        }
        let ModelWrapper::BPE(model) = tokenizer.get_model() else { return None };
        if model.continuing_subword_prefix.is_some() || model.end_of_word_suffix.is_some() {
            return None;
        }
        let vocabulary = tokenizer.get_vocab(false);
        // Each byte must have an id of its own: what has none is dropped, or fused into one unknown token.
        let has_every_byte = if byte_level {
            ByteLevel::alphabet().into_iter().all(|c| vocabulary.contains_key(&c.to_string()))
        } else {
            model.byte_fallback && (0..=255u8).all(|byte| vocabulary.contains_key(&format!("<0x{byte:02X}>")))
        };
        if !has_every_byte {
            return None;
        }
        for token in vocabulary.keys() {
            let bytes = if byte_level { byte_level_len(token) } else { token.len() };
            bound.bytes_per_id = bound.bytes_per_id.max(bytes as u64);
        }
        for token in tokenizer.get_added_vocabulary().get_added_tokens_decoder().values() {
            let growth = if token.normalized { bound.shrink } else { 1 };
            bound.bytes_per_id = bound.bytes_per_id.max(token.content.len() as u64 * growth);
            bound.space_is_free |= token.lstrip || token.rstrip;
        }
        Some(bound)
    }

    /// The text becomes at least so many ids.
    pub fn fewest_ids(&self, text: &str) -> u64 {
        let mut bytes = text.len() as u64;
        if self.space_is_free {
            bytes -= text.chars().filter(|c| c.is_whitespace()).map(|c| c.len_utf8() as u64).sum::<u64>();
        }
        if self.shrink > 1 {
            // ASCII is left alone, or becomes part of a longer character.
            let ascii = text.bytes().filter(|b| b.is_ascii() && !(self.space_is_free && b.is_ascii_whitespace()));
            bytes = (bytes / self.shrink).max(ascii.count() as u64);
        }
        bytes.div_ceil(self.bytes_per_id)
    }
}

fn members<'a>(part: &'a Json, name: &str) -> Option<&'a Vec<Json>> {
    part.get(name).and_then(Json::as_array)
}

/// How many times shorter a normalizer can make a text; None if there is no knowing.
fn normalizer_shrink(part: &Json, byte_level: &mut bool) -> Option<u64> {
    match part.get("type").and_then(Json::as_str)? {
        "Sequence" => members(part, "normalizers")?
            .iter()
            .try_fold(1, |shrink: u64, each| shrink.checked_mul(normalizer_shrink(each, byte_level)?)),
        "NFC" | "NFD" => Some(UNICODE_SHRINK),
        "Prepend" => Some(1),
        "ByteLevel" => {
            *byte_level = true;
            Some(1)
        }
        // "▁" for a space, and nothing else: another replacement could shorten ASCII.
        "Replace" => {
            let pattern = part.get("pattern")?.get("String")?.as_str()?;
            (pattern.len() <= part.get("content")?.as_str()?.len()).then_some(1)
        }
        _ => None,
    }
}

/// None if the pre-tokenizer may take out characters.
fn keeps_text(part: &Json, byte_level: &mut bool) -> Option<()> {
    match part.get("type").and_then(Json::as_str)? {
        "Sequence" => members(part, "pretokenizers")?.iter().try_for_each(|each| keeps_text(each, byte_level)),
        "Split" | "Punctuation" => (part.get("behavior")?.as_str()? != "Removed").then_some(()),
        "Metaspace" | "Digits" => Some(()),
        "ByteLevel" => {
            *byte_level = true;
            Some(())
        }
        _ => None,
    }
}

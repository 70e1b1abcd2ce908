//! One model's tokenizer: tokenizer.json as the `tokenizers` library reads it, and what tokenizer_config.json adds.

use std::collections::BTreeMap;

use serde_json::Value as Json;
use tokenizers::{AddedToken, Model, Tokenizer};

use crate::decode_plan::DecodePlan;
use crate::effort::{Effort, Outcome};
use crate::error::{error, Code, Result, TextError};
use crate::length_bound::LengthBound;
use crate::protect::ControlTokens;

#[derive(Clone, Copy)]
pub struct EncodeSettings {
    pub add_special_tokens: bool,
    pub parse_special_tokens: bool,
}

#[derive(Clone, Copy)]
pub struct DecodeSettings {
    pub skip_special_tokens: bool,
    pub allow_unknown_ids: bool,
}

pub struct TextTokenizer {
    inner: Tokenizer,
    plan: DecodePlan,
    control: ControlTokens,
    /// None if a text's bytes say nothing about its ids.
    bound: Option<LengthBound>,
    /// bos_token and its like, by the names that templates use.
    special_names: BTreeMap<String, String>,
    /// What "add special tokens" puts before and after a text.
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    vocab_size: u32,
}

impl TextTokenizer {
    /// `config` is tokenizer_config.json, {} if there is none. Errors speak of "tokenizer.json" and its parts; the caller
    /// adds the folder.
    pub fn load(tokenizer_json: &[u8], config: &Json) -> Result<Self> {
        tokenizers::utils::parallelism::set_parallelism(false);
        // The library panics on some syntax errors; this reports them with their line.
        serde_json::from_slice::<serde::de::IgnoredAny>(tokenizer_json)
            .or_else(|e| invalid(format!("tokenizer.json is not valid JSON: {e}; fetch the file again")))?;
        let mut inner = Tokenizer::from_bytes(tokenizer_json).or_else(|e| {
            invalid(format!(
                "tokenizer.json does not describe a tokenizer: {e}; wanted the file that a fast tokenizer's \
                 save_pretrained writes"
            ))
        })?;
        // Serving never cuts or pads a prompt, whatever the file was saved with.
        inner.with_truncation(None).or_else(|e| invalid(format!("tokenizer.json: {e}")))?;
        inner.with_padding(None);
        add_missing_tokens(&mut inner, config)?;

        let vocab_size = inner.get_vocab(true).values().max().map_or(0, |&id| id as u64 + 1);
        if vocab_size == 0 {
            return invalid("tokenizer.json has an empty vocabulary; wanted at least one token".into());
        }
        if vocab_size > i32::MAX as u64 {
            return invalid(format!("tokenizer.json has token id {}; ids must be below 2147483647", vocab_size - 1));
        }
        let plan = DecodePlan::new(inner.get_decoder())?;
        let special_names = special_names(config);
        let (prefix, suffix) = surrounding_tokens(&inner, config, &special_names)?;
        let control = ControlTokens::new(&inner);
        let bound = LengthBound::new(&inner);
        Ok(Self { inner, plan, control, bound, special_names, prefix, suffix, vocab_size: vocab_size as u32 })
    }

    pub fn inner(&self) -> &Tokenizer {
        &self.inner
    }

    pub fn plan(&self) -> &DecodePlan {
        &self.plan
    }

    pub fn control(&self) -> &ControlTokens {
        &self.control
    }

    pub fn bound(&self) -> Option<LengthBound> {
        self.bound
    }

    pub fn special_names(&self) -> &BTreeMap<String, String> {
        &self.special_names
    }

    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    /// The id of `name` ("bos_token") as tokenizer_config.json sets it.
    pub fn named_token_id(&self, name: &str) -> Option<u32> {
        self.inner.token_to_id(self.special_names.get(name)?)
    }

    pub fn encode(&self, text: &str, settings: EncodeSettings, effort: &Effort) -> Result<Outcome> {
        if let Some(too_long) = effort.refuse(self.bound, text) {
            return Ok(too_long);
        }
        let outcome = if settings.parse_special_tokens {
            self.encode_parsed(text, effort)?
        } else {
            let sentinel = self.control.unused_sentinel([text])?;
            self.control.encode_marked(&self.inner, &self.control.mark_all(text, sentinel), sentinel, effort)?
        };
        let Outcome::Ids(ids) = outcome else { return Ok(outcome) };
        let (prefix, suffix): (&[u32], &[u32]) =
            if settings.add_special_tokens { (&self.prefix, &self.suffix) } else { (&[], &[]) };
        Ok(Outcome::Ids([prefix, &ids, suffix].concat()))
    }

    /// Every added token in the text becomes its id, as the library does it.
    pub fn encode_parsed(&self, text: &str, effort: &Effort) -> Result<Outcome> {
        let pieces = self.inner.get_added_vocabulary().extract_and_normalize(self.inner.get_normalizer(), text);
        effort.encode(&self.inner, pieces, |word| self.inner.get_model().tokenize(word))
    }

    pub fn decode(&self, ids: &[i32], settings: DecodeSettings) -> Result<String> {
        let mut known = Vec::with_capacity(ids.len());
        for &id in ids {
            if self.checked_token(id, settings)?.is_some() {
                known.push(id as u32);
            }
        }
        self.inner
            .decode(&known, settings.skip_special_tokens)
            .or_else(|e| error(Code::Internal, format!("decoder failed: {e}")))
    }

    /// What the decoder gets for this id; None if it gets nothing.
    pub fn token_for_decoding(&self, id: i32, settings: DecodeSettings) -> Result<Option<String>> {
        let token = self.checked_token(id, settings)?;
        Ok(token.filter(|t| !settings.skip_special_tokens || !self.inner.get_added_vocabulary().is_special_token(t)))
    }

    pub fn token_name(&self, id: i32) -> Result<String> {
        let settings = DecodeSettings { skip_special_tokens: false, allow_unknown_ids: false };
        Ok(self.checked_token(id, settings)?.unwrap_or_default())
    }

    pub fn token_bytes(&self, id: i32) -> Result<Vec<u8>> {
        let settings = DecodeSettings { skip_special_tokens: false, allow_unknown_ids: false };
        let token = self.checked_token(id, settings)?.unwrap_or_default();
        if self.inner.get_added_vocabulary().get_added_tokens_decoder().contains_key(&(id as u32)) {
            return Ok(token.into_bytes());
        }
        self.plan.token_bytes(&token)
    }

    pub fn is_special(&self, id: i32) -> bool {
        let added = self.inner.get_added_vocabulary().get_added_tokens_decoder();
        u32::try_from(id).is_ok_and(|id| added.get(&id).is_some_and(|token| token.special))
    }

    fn checked_token(&self, id: i32, settings: DecodeSettings) -> Result<Option<String>> {
        let token = u32::try_from(id).ok().and_then(|id| self.inner.id_to_token(id));
        if token.is_none() && !settings.allow_unknown_ids {
            return error(
                Code::OutOfRange,
                format!("token id {id} is not in the vocabulary, whose ids are 0 to {}", self.vocab_size - 1),
            );
        }
        Ok(token)
    }
}

fn invalid<T>(message: String) -> Result<T> {
    error(Code::InvalidArgument, message)
}

/// Adds the tokens that only tokenizer_config.json lists (`added_tokens_decoder`), as transformers does on loading.
fn add_missing_tokens(inner: &mut Tokenizer, config: &Json) -> Result<()> {
    let Some(listed) = config.get("added_tokens_decoder").and_then(Json::as_object) else { return Ok(()) };
    let mut missing = vec![];
    for (id, fields) in listed {
        let Ok(id) = id.parse::<u32>() else {
            return invalid(format!("tokenizer_config.json: added_tokens_decoder has the key \"{id}\"; wanted an id"));
        };
        let Some(content) = fields.get("content").and_then(Json::as_str) else {
            return invalid(format!("tokenizer_config.json: added_tokens_decoder[{id}] has no string `content`"));
        };
        if inner.get_added_vocabulary().get_vocab().contains_key(content) {
            continue;
        }
        let flag = |name: &str| fields.get(name).and_then(Json::as_bool).unwrap_or(false);
        let token = AddedToken::from(content, flag("special"))
            .normalized(flag("normalized"))
            .lstrip(flag("lstrip"))
            .rstrip(flag("rstrip"))
            .single_word(flag("single_word"));
        missing.push((id, token));
    }
    missing.sort_by_key(|(id, _)| *id);
    for (id, token) in missing {
        let content = token.content.clone();
        inner.add_tokens([token]).or_else(|e| invalid(format!("tokenizer_config.json: token {content}: {e}")))?;
        let got = inner.token_to_id(&content);
        if got != Some(id) {
            return invalid(format!(
                "tokenizer_config.json gives the token {content} the id {id}, but by tokenizer.json it would be {}; \
                 save both files anew from one tokenizer",
                got.map_or("none".to_string(), |g| g.to_string())
            ));
        }
    }
    Ok(())
}

/// The `*_token` entries, each a string or an AddedToken object.
fn special_names(config: &Json) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    for (key, value) in config.as_object().into_iter().flatten() {
        let content = value.as_str().or_else(|| value.get("content").and_then(Json::as_str));
        if let (true, Some(content)) = (key.ends_with("_token"), content) {
            names.insert(key.clone(), content.to_string());
        }
    }
    names
}

/// What goes around a text: what the post-processor puts there, then `add_bos_token` and `add_eos_token` have the say.
fn surrounding_tokens(
    inner: &Tokenizer,
    config: &Json,
    names: &BTreeMap<String, String>,
) -> Result<(Vec<u32>, Vec<u32>)> {
    let failed = |e| TextError { code: Code::InvalidArgument, message: format!("tokenizer.json: post_processor: {e}") };
    // Any text shows it: a post-processor's additions do not depend on the text.
    let bare = inner.encode_fast("a", false).map_err(failed)?.get_ids().to_vec();
    let full = inner.encode_fast("a", true).map_err(failed)?.get_ids().to_vec();
    let Some(start) = (0..=full.len().saturating_sub(bare.len())).find(|&s| full[s..].starts_with(&bare)) else {
        return invalid(
            "tokenizer.json: post_processor changes the ids of the text itself; wanted one that adds tokens before or \
             after it"
                .into(),
        );
    };
    let mut prefix = full[..start].to_vec();
    let mut suffix = full[start + bare.len()..].to_vec();
    for (setting, name, ids, at_start) in
        [("add_bos_token", "bos_token", &mut prefix, true), ("add_eos_token", "eos_token", &mut suffix, false)]
    {
        let Some(wanted) = config.get(setting).and_then(Json::as_bool) else { continue };
        let id = names.get(name).and_then(|token| inner.token_to_id(token));
        let Some(id) = id else {
            if wanted {
                return invalid(format!(
                    "tokenizer_config.json sets {setting}, but its {name} is {}; name a token of the vocabulary",
                    names.get(name).map_or("not set", String::as_str)
                ));
            }
            continue;
        };
        let there = if at_start { ids.first() == Some(&id) } else { ids.last() == Some(&id) };
        match (wanted, there) {
            (true, false) if at_start => ids.insert(0, id),
            (true, false) => ids.push(id),
            (false, true) => ids.retain(|&other| other != id),
            _ => {}
        }
    }
    Ok((prefix, suffix))
}

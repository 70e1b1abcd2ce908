//! Tokenizers and chat templates for Conclave's C++ (shared/text/*.h says what each function promises). This file is the
//! border: every function here catches panics, and every error carries a status code.

mod chat;
mod decode_plan;
mod detokenizer;
mod effort;
mod error;
mod length_bound;
mod protect;
mod python;
mod template;
mod tokenizer;

use std::sync::Arc;

use serde_json::Value as Json;

use effort::{Effort, Outcome};
use error::{error, guarded, utf8, Code, Result};
use tokenizer::{DecodeSettings, EncodeSettings};

#[cxx::bridge(namespace = "conclave::text::bridge")]
mod ffi {
    struct TokenizerFacts {
        vocab_size: i32,
        /// -1: none
        bos_token_id: i32,
        eos_token_id: i32,
    }

    struct ChatCall<'a> {
        template_name: &'a [u8],
        messages_json: &'a [u8],
        /// Empty, or an object.
        variables_json: &'a [u8],
        add_generation_prompt: bool,
        unix_seconds: i64,
        max_ids: u64,
        interrupt: &'a Interrupt,
    }

    struct EncodeCall<'a> {
        text: &'a [u8],
        add_special: bool,
        parse_special: bool,
        max_ids: u64,
        interrupt: &'a Interrupt,
    }

    struct Ids {
        ids: Vec<i32>,
        /// 0, or there are no ids because there would be more than max_ids: at least so many.
        at_least: u64,
    }

    struct Prompt {
        text: String,
        ids: Ids,
    }

    unsafe extern "C++" {
        include!("shared/text/interrupt.h");

        #[namespace = "conclave::text"]
        type Interrupt;
        fn interrupted(self: &Interrupt) -> bool;
    }

    extern "Rust" {
        type TokenizerBridge;
        /// The second argument is empty if there is no tokenizer_config.json.
        fn load_tokenizer(tokenizer_json: &[u8], config_json: &[u8]) -> Result<Box<TokenizerBridge>>;
        fn facts(self: &TokenizerBridge) -> Result<TokenizerFacts>;
        fn encode(self: &TokenizerBridge, call: &EncodeCall) -> Result<Ids>;
        fn decode(self: &TokenizerBridge, ids: &[i32], skip_special: bool, allow_unknown: bool) -> Result<String>;
        fn token_bytes(self: &TokenizerBridge, id: i32) -> Result<Vec<u8>>;
        fn token_name(self: &TokenizerBridge, id: i32) -> Result<String>;
        /// -1: none
        fn token_id(self: &TokenizerBridge, token: &[u8]) -> Result<i32>;
        fn is_special(self: &TokenizerBridge, id: i32) -> Result<bool>;

        type DetokenizerBridge;
        fn new_detokenizer(
            tokenizer: &TokenizerBridge,
            skip_special: bool,
            allow_unknown: bool,
        ) -> Result<Box<DetokenizerBridge>>;
        /// Appends to `out`; on error what came before the refused id is kept for the next call.
        fn push(self: &mut DetokenizerBridge, ids: &[i32]) -> Result<String>;
        fn flush(self: &mut DetokenizerBridge) -> Result<String>;

        type TemplatesBridge;
        fn new_templates(max_template_bytes: usize, max_rendered_bytes: usize) -> Result<Box<TemplatesBridge>>;
        fn add(self: &mut TemplatesBridge, name: &[u8], source: &[u8]) -> Result<()>;
        fn render(self: &TemplatesBridge, tokenizer: &TokenizerBridge, call: &ChatCall) -> Result<Prompt>;
    }
}

pub struct TokenizerBridge(Arc<tokenizer::TextTokenizer>);

fn load_tokenizer(tokenizer_json: &[u8], config_json: &[u8]) -> Result<Box<TokenizerBridge>> {
    guarded(|| {
        let config = if config_json.is_empty() {
            Json::Object(Default::default())
        } else {
            parse_json(config_json, "tokenizer_config.json")?
        };
        if !config.is_object() {
            return error(Code::InvalidArgument, "tokenizer_config.json is not a JSON object");
        }
        Ok(Box::new(TokenizerBridge(Arc::new(tokenizer::TextTokenizer::load(tokenizer_json, &config)?))))
    })
}

impl TokenizerBridge {
    fn facts(&self) -> Result<ffi::TokenizerFacts> {
        guarded(|| {
            let id = |name| self.0.named_token_id(name).map_or(-1, |id| id as i32);
            Ok(ffi::TokenizerFacts {
                vocab_size: self.0.vocab_size() as i32,
                bos_token_id: id("bos_token"),
                eos_token_id: id("eos_token"),
            })
        })
    }

    fn encode(&self, call: &ffi::EncodeCall) -> Result<ffi::Ids> {
        guarded(|| {
            let settings =
                EncodeSettings { add_special_tokens: call.add_special, parse_special_tokens: call.parse_special };
            let effort = Effort { max_ids: call.max_ids, interrupted: &|| call.interrupt.interrupted() };
            self.0.encode(utf8(call.text, "the text")?, settings, &effort).map(ids)
        })
    }

    fn decode(&self, ids: &[i32], skip_special: bool, allow_unknown: bool) -> Result<String> {
        guarded(|| self.0.decode(ids, settings(skip_special, allow_unknown)))
    }

    fn token_bytes(&self, id: i32) -> Result<Vec<u8>> {
        guarded(|| self.0.token_bytes(id))
    }

    fn token_name(&self, id: i32) -> Result<String> {
        guarded(|| self.0.token_name(id))
    }

    fn token_id(&self, token: &[u8]) -> Result<i32> {
        guarded(|| {
            let id = std::str::from_utf8(token).ok().and_then(|token| self.0.inner().token_to_id(token));
            Ok(id.map_or(-1, |id| id as i32))
        })
    }

    fn is_special(&self, id: i32) -> Result<bool> {
        guarded(|| Ok(self.0.is_special(id)))
    }
}

pub struct DetokenizerBridge {
    detokenizer: detokenizer::Detokenizer,
    /// Final text that no call has returned yet.
    text: String,
}

fn new_detokenizer(
    tokenizer: &TokenizerBridge,
    skip_special: bool,
    allow_unknown: bool,
) -> Result<Box<DetokenizerBridge>> {
    guarded(|| {
        let settings = settings(skip_special, allow_unknown);
        let detokenizer = detokenizer::Detokenizer::new(Arc::clone(&tokenizer.0), settings);
        Ok(Box::new(DetokenizerBridge { detokenizer, text: String::new() }))
    })
}

impl DetokenizerBridge {
    fn push(&mut self, ids: &[i32]) -> Result<String> {
        guarded(|| {
            self.detokenizer.push(ids, &mut self.text)?;
            Ok(std::mem::take(&mut self.text))
        })
    }

    fn flush(&mut self) -> Result<String> {
        guarded(|| {
            self.detokenizer.flush(&mut self.text)?;
            Ok(std::mem::take(&mut self.text))
        })
    }
}

pub struct TemplatesBridge {
    templates: template::Templates,
    limits: template::Limits,
}

fn new_templates(max_template_bytes: usize, max_rendered_bytes: usize) -> Result<Box<TemplatesBridge>> {
    guarded(|| {
        let limits = template::Limits { max_template_bytes, max_rendered_bytes };
        Ok(Box::new(TemplatesBridge { templates: template::Templates::new(&limits), limits }))
    })
}

impl TemplatesBridge {
    fn add(&mut self, name: &[u8], source: &[u8]) -> Result<()> {
        guarded(|| self.templates.add(utf8(name, "the name")?, utf8(source, "the template")?, &self.limits))
    }

    fn render(&self, tokenizer: &TokenizerBridge, call: &ffi::ChatCall) -> Result<ffi::Prompt> {
        guarded(|| {
            let messages = parse_json(call.messages_json, "messages")?;
            check_messages(&messages)?;
            let variables = if call.variables_json.is_empty() {
                Json::Object(Default::default())
            } else {
                parse_json(call.variables_json, "chat_template_kwargs")?
            };
            check_variables(&variables)?;
            let (text, outcome) = chat::Conversation {
                templates: &self.templates,
                tokenizer: &tokenizer.0,
                template_name: utf8(call.template_name, "the template name")?,
                messages: &messages,
                variables: &variables,
                unix_seconds: call.unix_seconds,
                add_generation_prompt: call.add_generation_prompt,
                effort: &Effort { max_ids: call.max_ids, interrupted: &|| call.interrupt.interrupted() },
            }
            .encode()?;
            Ok(ffi::Prompt { text, ids: ids(outcome) })
        })
    }
}

fn settings(skip_special_tokens: bool, allow_unknown_ids: bool) -> DecodeSettings {
    DecodeSettings { skip_special_tokens, allow_unknown_ids }
}

fn ids(outcome: Outcome) -> ffi::Ids {
    match outcome {
        Outcome::Ids(ids) => ffi::Ids { ids: ids.into_iter().map(|id| id as i32).collect(), at_least: 0 },
        Outcome::TooLong { at_least } => ffi::Ids { ids: vec![], at_least },
    }
}

/// serde_json itself refuses more than 128 levels of nesting.
fn parse_json(bytes: &[u8], what: &str) -> Result<Json> {
    serde_json::from_slice(bytes).or_else(|e| error(Code::InvalidArgument, format!("{what}: not valid JSON: {e}")))
}

fn check_messages(messages: &Json) -> Result<()> {
    let Some(list) = messages.as_array() else {
        return error(Code::InvalidArgument, "messages must be an array of objects");
    };
    if list.is_empty() {
        return error(Code::InvalidArgument, "messages is empty; wanted at least one message");
    }
    for (i, message) in list.iter().enumerate() {
        if message.get("role").and_then(Json::as_str).is_none() {
            return error(Code::InvalidArgument, format!("messages[{i}] must be an object with a string `role`"));
        }
    }
    Ok(())
}

fn check_variables(variables: &Json) -> Result<()> {
    let Some(entries) = variables.as_object() else {
        return error(Code::InvalidArgument, "chat_template_kwargs must be an object");
    };
    const RESERVED: [&str; 6] =
        ["messages", "tools", "documents", "add_generation_prompt", "raise_exception", "strftime_now"];
    match entries.keys().find(|key| RESERVED.contains(&key.as_str())) {
        Some(key) => error(
            Code::InvalidArgument,
            format!("chat_template_kwargs.{key} is set by the server; remove it from chat_template_kwargs"),
        ),
        None => Ok(()),
    }
}

//! The streaming side of decoding: ids in, final text out. Equal in sum to TextTokenizer::decode.

use std::sync::Arc;

use crate::decode_plan::{apply, byte_level_bytes, fallback_byte, DecodePlan, TokenStep};
use crate::error::Result;
use crate::tokenizer::{DecodeSettings, TextTokenizer};

pub struct Detokenizer {
    tokenizer: Arc<TextTokenizer>,
    settings: DecodeSettings,
    state: State,
}

/// All that depends on the ids so far.
struct State {
    /// Byte-level: the start of a character that is not complete. Byte fallback: the current run of byte tokens.
    pending: Vec<u8>,
    /// Per step of the plan: no token has passed yet.
    first: Vec<bool>,
    /// No text has been joined yet.
    empty: bool,
    /// How many characters may still be stripped at the start.
    strip_left: usize,
}

impl State {
    fn new(plan: &DecodePlan) -> Self {
        let (num_steps, strip_left) = match plan {
            DecodePlan::Bytes => (0, 0),
            DecodePlan::Pieces { steps, strip_start, .. } => (steps.len(), strip_start.map_or(0, |(_, n)| n)),
        };
        Self { pending: vec![], first: vec![true; num_steps], empty: true, strip_left }
    }
}

impl Detokenizer {
    pub fn new(tokenizer: Arc<TextTokenizer>, settings: DecodeSettings) -> Self {
        let state = State::new(tokenizer.plan());
        Self { tokenizer, settings, state }
    }

    pub fn push(&mut self, ids: &[i32], out: &mut String) -> Result<()> {
        let tokenizer = Arc::clone(&self.tokenizer);
        for &id in ids {
            let Some(token) = tokenizer.token_for_decoding(id, self.settings)? else { continue };
            match tokenizer.plan() {
                DecodePlan::Bytes => {
                    self.state.pending.extend(byte_level_bytes(&token));
                    take_valid_utf8(&mut self.state.pending, out);
                }
                DecodePlan::Pieces { .. } => self.feed(0, token, out)?,
            }
        }
        Ok(())
    }

    pub fn flush(&mut self, out: &mut String) -> Result<()> {
        let tokenizer = Arc::clone(&self.tokenizer);
        match tokenizer.plan() {
            DecodePlan::Bytes => out.push_str(&String::from_utf8_lossy(&self.state.pending)),
            DecodePlan::Pieces { steps, .. } => {
                if let Some(at) = steps.iter().position(|step| matches!(step, TokenStep::ByteFallback)) {
                    self.end_run(at, out)?;
                }
            }
        }
        self.state = State::new(tokenizer.plan());
        Ok(())
    }

    /// Passes a token through the steps from `from` on, and joins what comes out.
    fn feed(&mut self, from: usize, mut token: String, out: &mut String) -> Result<()> {
        let tokenizer = Arc::clone(&self.tokenizer);
        let DecodePlan::Pieces { steps, joiner, strip_start } = tokenizer.plan() else { return Ok(()) };
        for (i, step) in steps.iter().enumerate().skip(from) {
            token = match step {
                TokenStep::Map(decoder) => apply(decoder, token, true)?,
                TokenStep::Metaspace(decoder) => apply(decoder, token, self.state.first[i])?,
                TokenStep::ByteFallback => {
                    if let Some(byte) = fallback_byte(&token) {
                        self.state.pending.push(byte);
                        return Ok(());
                    }
                    self.end_run(i, out)?;
                    token
                }
            };
            self.state.first[i] = false;
        }
        if !self.state.empty {
            out.push_str(joiner);
        }
        self.state.empty = false;
        let mut text = token.as_str();
        if let Some((content, _)) = strip_start {
            while self.state.strip_left > 0 && !text.is_empty() {
                match text.strip_prefix(*content) {
                    Some(rest) => {
                        text = rest;
                        self.state.strip_left -= 1;
                    }
                    None => self.state.strip_left = 0,
                }
            }
        }
        out.push_str(text);
        Ok(())
    }

    /// Ends the run of byte tokens before step `at`: its text if it is UTF-8 as a whole, else one U+FFFD per byte.
    fn end_run(&mut self, at: usize, out: &mut String) -> Result<()> {
        let run = std::mem::take(&mut self.state.pending);
        if run.is_empty() {
            return Ok(());
        }
        let count = run.len();
        match String::from_utf8(run) {
            Ok(text) => self.feed(at + 1, text, out),
            Err(_) => (0..count).try_for_each(|_| self.feed(at + 1, "\u{FFFD}".to_string(), out)),
        }
    }
}

/// Moves from `bytes` to `out` what further bytes cannot change, as String::from_utf8_lossy reads it.
fn take_valid_utf8(bytes: &mut Vec<u8>, out: &mut String) {
    let mut start = 0;
    loop {
        match std::str::from_utf8(&bytes[start..]) {
            Ok(text) => {
                out.push_str(text);
                start = bytes.len();
                break;
            }
            Err(e) => {
                let valid = start + e.valid_up_to();
                out.push_str(std::str::from_utf8(&bytes[start..valid]).expect("checked above"));
                start = valid;
                match e.error_len() {
                    Some(bad) => {
                        out.push('\u{FFFD}');
                        start += bad;
                    }
                    None => break,
                }
            }
        }
    }
    bytes.drain(..start);
}

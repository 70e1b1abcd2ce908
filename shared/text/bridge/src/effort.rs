//! How far an encoding may go: it ends early when the text proves too long, or when nobody waits for it any more.

use tokenizers::{Encoding, OffsetType, PreTokenizedString, PreTokenizer, Token, Tokenizer};

use crate::error::{error, Code, Result, TextError};
use crate::length_bound::LengthBound;

/// Ids, or how many there would be at least.
pub enum Outcome {
    Ids(Vec<u32>),
    TooLong { at_least: u64 },
}

pub struct Effort<'a> {
    /// More ids than this are of no use to the caller.
    pub max_ids: u64,
    /// True when the caller has given up.
    pub interrupted: &'a dyn Fn() -> bool,
}

/// Why the library was made to stop.
#[derive(Debug)]
enum Stop {
    TooLong(u64),
    Interrupted,
}

impl std::fmt::Display for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Stop {}

impl Effort<'_> {
    pub fn check(&self) -> Result<()> {
        if (self.interrupted)() {
            return error(Code::Cancelled, "nobody waits for the text's ids any more");
        }
        Ok(())
    }

    /// Some if the text is too long by its bytes alone.
    pub fn refuse(&self, bound: Option<LengthBound>, text: &str) -> Option<Outcome> {
        let at_least = bound?.fewest_ids(text);
        (at_least > self.max_ids).then_some(Outcome::TooLong { at_least })
    }

    /// Cuts normalized text into words and these into tokens, as the library's own encode does.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        mut pieces: PreTokenizedString,
        tokenize: impl Fn(&str) -> tokenizers::Result<Vec<Token>>,
    ) -> Result<Outcome> {
        self.check()?;
        if let Some(pre_tokenizer) = tokenizer.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces).or_else(failed)?;
        }
        let count = std::cell::Cell::new(0u64);
        let tokenized = pieces.tokenize(|word| {
            if (self.interrupted)() {
                return Err(Box::new(Stop::Interrupted));
            }
            let tokens = tokenize(word.get())?;
            count.set(count.get() + tokens.len() as u64);
            if count.get() > self.max_ids {
                return Err(Box::new(Stop::TooLong(count.get())));
            }
            Ok(tokens)
        });
        if let Err(e) = tokenized {
            return match e.downcast_ref::<Stop>() {
                Some(Stop::TooLong(at_least)) => Ok(Outcome::TooLong { at_least: *at_least }),
                Some(Stop::Interrupted) => {
                    self.check()?;
                    failed("interrupted")
                }
                None => failed(e),
            };
        }
        let encoding: Encoding = pieces.into_encoding(None, 0, OffsetType::None).or_else(failed)?;
        let ids = encoding.get_ids();
        if ids.len() as u64 > self.max_ids {
            return Ok(Outcome::TooLong { at_least: ids.len() as u64 });
        }
        Ok(Outcome::Ids(ids.to_vec()))
    }
}

pub fn failed<T>(e: impl std::fmt::Display) -> Result<T> {
    Err(TextError { code: Code::Internal, message: format!("tokenizer failed: {e}") })
}

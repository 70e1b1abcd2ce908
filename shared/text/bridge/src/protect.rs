//! Keeps the names of added tokens plain text where a user wrote them.
//!
//! A sentinel, a private-use character that occurs nowhere in the input, is put after the first character of such a name.
//! The library then finds only the other added tokens; the sentinel is taken out before the text is cut into words, so
//! that the ids are those of the text without added tokens.

use std::collections::{HashMap, HashSet};

use tokenizers::{Model, PreTokenizedString, Token, Tokenizer};

use crate::effort::{failed, Effort, Outcome};
use crate::error::{error, Code, Result, TextError};

/// The added tokens of a model, less those of white space alone: these are abbreviations ("        " in OLMoE), not
/// control tokens, and text must go on to use them.
pub struct ControlTokens {
    names: Vec<String>,
    ids: HashSet<u32>,
    /// First character, and the second one if there is one, of each name whose first character is no letter or digit.
    starts: HashSet<(char, Option<char>)>,
    /// The other names, by their first character.
    words: HashMap<char, Vec<String>>,
}

impl ControlTokens {
    pub fn new(tokenizer: &Tokenizer) -> Self {
        let mut names = vec![];
        let mut ids = HashSet::new();
        let mut starts = HashSet::new();
        let mut words = HashMap::new();
        for (id, token) in tokenizer.get_added_vocabulary().get_added_tokens_decoder() {
            if token.content.trim().is_empty() {
                continue;
            }
            let mut chars = token.content.chars();
            match chars.next() {
                Some(first) if first.is_alphanumeric() => {
                    words.entry(first).or_insert_with(Vec::new).push(token.content.clone());
                }
                Some(first) => {
                    starts.insert((first, chars.next()));
                }
                None => {}
            }
            names.push(token.content.clone());
            ids.insert(*id);
        }
        names.sort();
        Self { names, ids, starts, words }
    }

    /// The names that occur in `text`.
    pub fn names_in<'a>(&'a self, text: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.names.iter().map(String::as_str).filter(|name| text.contains(name))
    }

    /// A character that none of the texts contains.
    pub fn unused_sentinel<'a>(&self, texts: impl IntoIterator<Item = &'a str>) -> Result<char> {
        // Supplementary Private Use Area-B, from its end: nothing that people write, and no normalizer changes it.
        let used: HashSet<char> =
            texts.into_iter().flat_map(|text| text.chars().filter(|&c| c >= '\u{100000}')).collect();
        (0x100000..=0x10FFFDu32).rev().filter_map(char::from_u32).find(|c| !used.contains(c)).ok_or_else(|| TextError {
            code: Code::InvalidArgument,
            message: "the text uses every character of Unicode's last private-use plane; remove some".into(),
        })
    }

    /// Marks every place of `text` where a control token could begin: a name, the first two characters of one, or its
    /// first character at the end of the text (the rest may follow from elsewhere).
    pub fn mark_all(&self, text: &str, sentinel: char) -> String {
        let last = text.trim_end().char_indices().next_back().map(|(at, _)| at);
        let mut marked = String::with_capacity(text.len() + 16);
        let mut chars = text.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            marked.push(c);
            let next = chars.peek().map(|&(_, next)| next);
            let starts_here = self.starts.contains(&(c, None))
                || next.is_some_and(|next| self.starts.contains(&(c, Some(next))))
                || (Some(at) == last && self.starts.iter().any(|&(first, _)| first == c))
                || self
                    .words
                    .get(&c)
                    .is_some_and(|names| names.iter().any(|name| text[at..].starts_with(name.as_str())));
            if starts_here {
                marked.push(sentinel);
            }
        }
        marked
    }

    /// Encodes a text in which each sentinel follows the first character of a name to be left as text.
    pub fn encode_marked(
        &self,
        tokenizer: &Tokenizer,
        marked: &str,
        sentinel: char,
        effort: &Effort,
    ) -> Result<Outcome> {
        let vocabulary = tokenizer.get_added_vocabulary();
        let mut pieces: PreTokenizedString = vocabulary.extract_and_normalize(tokenizer.get_normalizer(), marked);
        pieces
            .normalize(|piece| {
                if piece.get().contains(sentinel) {
                    piece.filter(|c| c != sentinel);
                }
                Ok(())
            })
            .or_else(failed)?;
        effort.encode(tokenizer, pieces, |word| self.tokenize_plain(tokenizer, word))
    }

    /// Some models (Unigram, or BPE that looks up whole words first) spell a control token even from plain text, if it is
    /// in their vocabulary; then the text is cut inside each such name.
    fn tokenize_plain(&self, tokenizer: &Tokenizer, text: &str) -> tokenizers::Result<Vec<Token>> {
        // A part can spell a name only once more for each time it was cut, so few rounds are needed.
        const MAX_ROUNDS: usize = 8;
        let mut parts = vec![text];
        for round in 0.. {
            let mut tokens = vec![];
            let mut cut_parts = vec![];
            for part in &parts {
                let of_part = tokenizer.get_model().tokenize(part)?;
                let mut done = 0;
                for cut in of_part.iter().filter_map(|token| self.cut_inside(token, part)) {
                    cut_parts.push(&part[done..cut]);
                    done = cut;
                }
                cut_parts.push(&part[done..]);
                tokens.extend(of_part);
            }
            if cut_parts.len() == parts.len() || round == MAX_ROUNDS {
                return Ok(tokens);
            }
            parts = cut_parts;
        }
        unreachable!("the loop returns")
    }

    /// Where to cut `text` so that it no longer spells this token, if it is a control token spelled by the text (and not
    /// the model's unknown token, which stands for other characters).
    fn cut_inside(&self, token: &Token, text: &str) -> Option<usize> {
        let (start, end) = token.offsets;
        let spelled = text.get(start..end)?;
        if !self.ids.contains(&token.id) || spelled != token.value {
            return None;
        }
        let cut = start + spelled.chars().next()?.len_utf8();
        (cut < end).then_some(cut)
    }
}

/// `text` with `sentinel` after the first character of every occurrence of `name`, overlapping ones as well.
pub fn mark_inside(text: &str, name: &str, sentinel: char) -> String {
    let mut marked = String::with_capacity(text.len() + 16);
    for (at, c) in text.char_indices() {
        marked.push(c);
        if text[at..].starts_with(name) {
            marked.push(sentinel);
        }
    }
    marked
}

/// `marked` less its sentinels, and the byte offsets in that text before which they stood.
pub fn unmark(marked: &str, sentinel: char) -> (String, Vec<usize>) {
    let mut text = String::with_capacity(marked.len());
    let mut offsets = vec![];
    for c in marked.chars() {
        if c == sentinel {
            offsets.push(text.len());
        } else {
            text.push(c);
        }
    }
    (text, offsets)
}

/// `text` with a sentinel before each of the byte offsets, which are ascending character boundaries.
pub fn mark_at(text: &str, offsets: impl IntoIterator<Item = usize>, sentinel: char) -> Result<String> {
    let mut marked = String::with_capacity(text.len() + 16);
    let mut done = 0;
    for offset in offsets {
        let Some(part) = text.get(done..offset) else {
            return error(Code::Internal, format!("mark at {offset} of {} bytes", text.len()));
        };
        marked.push_str(part);
        marked.push(sentinel);
        done = offset;
    }
    marked.push_str(&text[done..]);
    Ok(marked)
}

//! Messages to a prompt: its text, exactly as the template writes it, and its ids, in which only the template's own
//! control tokens are control tokens.
//!
//! The text alone does not say whether "<|user|>" in it was written by the template or by a user. So the messages are
//! rendered once more with marks inside the names that users wrote. If the second text is the first one plus marks, they
//! show where users' names ended up, whatever the template trims, splits or reorders. If it is not, the template looks at
//! some of these names (`content.split('</think>')`), and each is tried alone; one that the template takes out needs no
//! mark, and one that cannot be followed is refused.

use std::collections::BTreeSet;

use minijinja::Value;
use serde_json::Value as Json;

use crate::effort::{Effort, Outcome};
use crate::error::{error, Code, Result};
use crate::protect::{mark_at, mark_inside, unmark};
use crate::template::{value_of, Rendering, Templates, Variables};
use crate::tokenizer::TextTokenizer;

pub struct Conversation<'a> {
    pub templates: &'a Templates,
    pub tokenizer: &'a TextTokenizer,
    pub template_name: &'a str,
    pub messages: &'a Json,
    pub variables: &'a Json,
    pub unix_seconds: i64,
    pub add_generation_prompt: bool,
    pub effort: &'a Effort<'a>,
}

/// One control token's name in one string of the request.
struct Suspect<'a> {
    leaf: usize,
    name: &'a str,
}

/// Requests with more suspects that the template acts on are refused: each costs up to three renderings.
const MAX_SUSPECTS: u64 = 64;

impl Conversation<'_> {
    pub fn encode(&self) -> Result<(String, Outcome)> {
        let plain = self.render(&mut |_, _| None)?;
        if let Some(too_long) = self.effort.refuse(self.tokenizer.bound(), &plain.text) {
            return Ok((plain.text, too_long));
        }
        let control = self.tokenizer.control();
        let mut leaves: Vec<String> = vec![];
        self.visit(&mut |_, text| {
            leaves.push(text.to_string());
            None
        });
        let sentinel = control.unused_sentinel(leaves.iter().map(String::as_str).chain([plain.text.as_str()]))?;

        let marked_leaves: Vec<String> = leaves.iter().map(|leaf| control.mark_all(leaf, sentinel)).collect();
        let marked = if marked_leaves == leaves {
            None
        } else {
            match self.render(&mut |leaf, _| Some(marked_leaves[leaf].clone())) {
                Ok(rendering) if unmark(&rendering.text, sentinel).0 == plain.text => Some(rendering.text),
                _ => self.mark_one_by_one(&plain, &leaves, sentinel)?,
            }
        };
        let outcome = match marked {
            None => self.tokenizer.encode_parsed(&plain.text, self.effort)?,
            Some(marked) => control.encode_marked(self.tokenizer.inner(), &marked, sentinel, self.effort)?,
        };
        Ok((plain.text, outcome))
    }

    /// The plain text with marks at all names that could be followed; None if users wrote none.
    fn mark_one_by_one(&self, plain: &Rendering, leaves: &[String], sentinel: char) -> Result<Option<String>> {
        let suspects: Vec<Suspect> = leaves
            .iter()
            .enumerate()
            .flat_map(|(leaf, text)| self.tokenizer.control().names_in(text).map(move |name| Suspect { leaf, name }))
            .collect();
        if suspects.is_empty() {
            return Ok(None);
        }
        let affordable = MAX_SUSPECTS.min(Templates::affordable(plain));
        if suspects.len() as u64 > affordable {
            return error(
                Code::InvalidArgument,
                format!(
                    "the messages contain {} names of control tokens on which the chat template may act; at most \
                     {affordable} can be checked: remove some, for example {}",
                    suspects.len(),
                    suspects[0].name
                ),
            );
        }
        let mut offsets = BTreeSet::new();
        for suspect in &suspects {
            self.effort.check()?;
            offsets.extend(self.follow(suspect, &plain.text, sentinel)?);
        }
        Ok(Some(mark_at(&plain.text, offsets, sentinel)?))
    }

    /// The byte offsets in the plain text just after the first character of each occurrence of a suspect.
    fn follow(&self, suspect: &Suspect, plain: &str, sentinel: char) -> Result<Vec<usize>> {
        let name = suspect.name;
        let first_len = name.chars().next().map_or(0, char::len_utf8);
        let after = format!("{name}{sentinel}");
        let before = format!("{sentinel}{name}");

        let inside = self.render_with(suspect, |text| mark_inside(text, name, sentinel));
        if let Some(offsets) = inside.as_deref().and_then(|text| offsets_if_same(text, plain, sentinel)) {
            return Ok(offsets);
        }
        // A mark inside hides the name from the template's own tests; one beside it does not, but stops a trim there.
        let marked_after = self.render_with(suspect, |text| text.replace(name, &after));
        if let Some(offsets) = marked_after.as_deref().and_then(|text| offsets_if_same(text, plain, sentinel)) {
            let ends = offsets.into_iter().filter(|&at| plain[..at].ends_with(name));
            return Ok(ends.map(|at| at - name.len() + first_len).collect());
        }
        let marked_before = self.render_with(suspect, |text| text.replace(name, &before));
        if let Some(offsets) = marked_before.as_deref().and_then(|text| offsets_if_same(text, plain, sentinel)) {
            let starts = offsets.into_iter().filter(|&at| plain[at..].starts_with(name));
            return Ok(starts.map(|at| at + first_len).collect());
        }
        // The text changed with every mark: fine if the template takes the name out, as it does with past reasoning.
        match (marked_after, marked_before) {
            (Some(a), Some(b)) if !a.contains(&after) && !b.contains(&before) => Ok(vec![]),
            _ => error(
                Code::InvalidArgument,
                format!(
                    "a message contains {name}, the name of a control token, where the chat template acts on it; remove \
                     it or write it differently"
                ),
            ),
        }
    }

    fn render_with(&self, suspect: &Suspect, mark: impl Fn(&str) -> String) -> Option<String> {
        let rendering = self.render(&mut |leaf, text| (leaf == suspect.leaf).then(|| mark(text)));
        rendering.ok().map(|rendering| rendering.text)
    }

    /// Renders with some strings replaced: `replace` gets each string's number and text.
    fn render(&self, replace: &mut dyn FnMut(usize, &str) -> Option<String>) -> Result<Rendering> {
        self.effort.check()?;
        let (messages, variables) = self.visit(replace);
        let mut entries: Vec<(String, Value)> = vec![
            ("tools".into(), Value::from(())),
            ("documents".into(), Value::from(())),
            ("add_generation_prompt".into(), Value::from(self.add_generation_prompt)),
        ];
        for (name, content) in self.tokenizer.special_names() {
            entries.push((name.clone(), Value::from(content.as_str())));
        }
        for (name, value) in variables.as_object().into_iter().flatten() {
            entries.push((name.clone(), value_of(value)));
        }
        let variables = Variables { entries, unix_seconds: self.unix_seconds };
        self.templates.render(self.template_name, &messages, &variables)
    }

    /// Visits every string that comes from the user, always in the same order: keys and values of the messages, but for
    /// roles that are plain words (templates compare them), then the values of the variables.
    fn visit(&self, replace: &mut dyn FnMut(usize, &str) -> Option<String>) -> (Json, Json) {
        let mut next = 0;
        let messages = replace_strings(self.messages, &mut next, replace);
        let variables = match self.variables {
            Json::Object(entries) => {
                Json::Object(entries.iter().map(|(k, v)| (k.clone(), replace_strings(v, &mut next, replace))).collect())
            }
            other => other.clone(),
        };
        (messages, variables)
    }
}

fn offsets_if_same(marked: &str, plain: &str, sentinel: char) -> Option<Vec<usize>> {
    let (text, offsets) = unmark(marked, sentinel);
    (text == plain).then_some(offsets)
}

fn replace_strings(value: &Json, next: &mut usize, replace: &mut dyn FnMut(usize, &str) -> Option<String>) -> Json {
    let mut string = |text: &str| {
        *next += 1;
        replace(*next - 1, text).unwrap_or_else(|| text.to_string())
    };
    match value {
        Json::String(text) => Json::String(string(text)),
        Json::Array(items) => Json::Array(items.iter().map(|item| replace_strings(item, next, replace)).collect()),
        Json::Object(entries) => {
            let mut replaced = serde_json::Map::new();
            for (key, value) in entries {
                let is_plain_role = key == "role"
                    && value.as_str().is_some_and(|role| role.chars().all(|c| c.is_ascii_alphabetic() || c == '_'));
                if is_plain_role {
                    replaced.insert(key.clone(), value.clone());
                } else {
                    *next += 1;
                    let key = replace(*next - 1, key).unwrap_or_else(|| key.clone());
                    let value = replace_strings(value, next, replace);
                    replaced.insert(key, value);
                }
            }
            Json::Object(replaced)
        }
        other => other.clone(),
    }
}

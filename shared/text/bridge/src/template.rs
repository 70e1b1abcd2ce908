//! A model's chat templates, compiled, and one rendering of one of them. Set up as transformers sets up Jinja.

use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value};
use serde_json::Value as Json;

use crate::error::{error, Code, Result, TextError};
use crate::python;

/// Instructions of a rendering. A conversation of a thousand messages needs about 10^5; this many take about a second.
const MAX_INSTRUCTIONS: u64 = 10_000_000;

/// Words and signs between `{{` and `}}` or `{%` and `%}`: the compiler calls itself for many of them, and its stack ends at
/// some 10^4. Templates of published models stay below 200.
const MAX_TAG_TOKENS: usize = 1500;

/// Of all the renderings of a request that is rendered again and again: about a tenth of a second of copying.
const MAX_REPEATED_BYTES: u64 = 16 << 20;

pub struct Limits {
    pub max_template_bytes: usize,
    pub max_rendered_bytes: usize,
}

pub struct Templates {
    environment: Environment<'static>,
    max_rendered_bytes: usize,
}

/// What every rendering of a request has in common. Messages come apart, because they are rendered several times.
pub struct Variables {
    pub entries: Vec<(String, Value)>,
    pub unix_seconds: i64,
}

pub struct Rendering {
    pub text: String,
    /// Instructions used, at least 1.
    pub instructions: u64,
}

/// The message of a template's raise_exception: shown to the user as it is.
#[derive(Debug)]
struct Raised(String);

impl std::fmt::Display for Raised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

impl Templates {
    pub fn new(limits: &Limits) -> Self {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.expect("the default delimiters are valid"));
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_fuel(Some(MAX_INSTRUCTIONS));
        environment.set_unknown_method_callback(python::call_method);
        environment.add_filter("tojson", python::to_json);
        environment.add_filter("trim", python::trim);
        environment.add_function("raise_exception", |message: String| -> std::result::Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(message)))
        });
        Self { environment, max_rendered_bytes: limits.max_rendered_bytes }
    }

    /// INVALID_ARGUMENT: the source does not compile, or is too large.
    pub fn add(&mut self, name: &str, source: &str, limits: &Limits) -> Result<()> {
        if source.len() > limits.max_template_bytes {
            return error(
                Code::InvalidArgument,
                format!("the template has {} bytes; the limit is {}", source.len(), limits.max_template_bytes),
            );
        }
        if let Some(line) = line_of_an_endless_tag(source) {
            return error(
                Code::InvalidArgument,
                format!("the template does not compile: line {line}: a tag of more than {MAX_TAG_TOKENS} words and signs"),
            );
        }
        let source = without_generation_tags(source);
        self.environment.add_template_owned(name.to_string(), source).or_else(|e| {
            let line = e.line().unwrap_or(0);
            error(Code::InvalidArgument, format!("the template does not compile: line {line}: {}", describe(&e)))
        })
    }

    pub fn render(&self, name: &str, messages: &Json, variables: &Variables) -> Result<Rendering> {
        let now = variables.unix_seconds;
        let mut context: Vec<(String, Value)> = vec![
            ("messages".into(), value_of(messages)),
            ("strftime_now".into(), Value::from_function(move |format: String| python::strftime(&format, now))),
        ];
        context.extend(variables.entries.iter().cloned());
        let template = self.environment.get_template(name).map_err(|e| self.explain(&e))?;
        let mut output = BoundedOutput { bytes: vec![], capacity: self.max_rendered_bytes };
        let captured =
            template.render_captured_to(Value::from_pairs(context), &mut output).map_err(|e| self.explain(&e))?;
        let instructions = captured.state().fuel_levels().map_or(MAX_INSTRUCTIONS, |(used, _)| used.max(1));
        drop(captured);
        match String::from_utf8(output.bytes) {
            Ok(text) => Ok(Rendering { text, instructions }),
            Err(_) => error(Code::Internal, "the template engine wrote bytes that are not UTF-8"),
        }
    }

    /// How many renderings like this one a request may cost.
    pub fn affordable(rendering: &Rendering) -> u64 {
        let by_bytes = MAX_REPEATED_BYTES / (rendering.text.len() as u64).max(1);
        by_bytes.min(MAX_INSTRUCTIONS / rendering.instructions.max(1))
    }

    fn explain(&self, e: &Error) -> TextError {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(e);
        while let Some(current) = cause {
            if let Some(Raised(message)) = current.downcast_ref::<Raised>() {
                return TextError { code: Code::InvalidArgument, message: message.clone() };
            }
            cause = current.source();
        }
        match e.kind() {
            ErrorKind::OutOfFuel => TextError {
                code: Code::ResourceExhausted,
                message: format!(
                    "the chat template ran for more than {MAX_INSTRUCTIONS} instructions on these messages; send fewer \
                     messages"
                ),
            },
            ErrorKind::WriteFailure => TextError {
                code: Code::ResourceExhausted,
                message: format!(
                    "the chat template wrote more than {} bytes; send shorter messages",
                    self.max_rendered_bytes
                ),
            },
            _ => TextError {
                code: Code::InvalidArgument,
                message: format!(
                    "the chat template cannot render these messages: line {}: {}",
                    e.line().unwrap_or(0),
                    describe(e)
                ),
            },
        }
    }
}

/// The line in which a tag of more than MAX_TAG_TOKENS begins.
fn line_of_an_endless_tag(source: &str) -> Option<usize> {
    let text = source.as_bytes();
    let mut at = 0;
    while at + 1 < text.len() {
        let begin = at;
        match &text[at..at + 2] {
            b"{#" => at = source[at..].find("#}").map_or(text.len(), |length| at + length + 2),
            b"{{" | b"{%" => {
                let mut tokens = 0;
                let mut open_braces = 0;
                at += 2;
                while at < text.len() && (open_braces > 0 || !matches!(text.get(at..at + 2), Some(b"}}" | b"%}"))) {
                    match text[at] {
                        b'{' => open_braces += 1,
                        b'}' if open_braces > 0 => open_braces -= 1,
                        quote @ (b'"' | b'\'') => {
                            at += 1;
                            while at < text.len() && text[at] != quote {
                                at += if text[at] == b'\\' { 2 } else { 1 };
                            }
                        }
                        _ => {}
                    }
                    let in_word = |at: usize| text.get(at).is_some_and(|c| c.is_ascii_alphanumeric() || *c == b'_');
                    if !text.get(at).is_some_and(u8::is_ascii_whitespace) && !(in_word(at) && in_word(at + 1)) {
                        tokens += 1;
                    }
                    at += 1;
                }
                if tokens > MAX_TAG_TOKENS {
                    return Some(1 + text[..begin].iter().filter(|c| **c == b'\n').count());
                }
            }
            _ => at += 1,
        }
    }
    None
}

/// JSON as a template sees it; objects keep the order of their keys.
pub fn value_of(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(flag) => Value::from(*flag),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(int), _) => Value::from(int),
            (None, Some(int)) => Value::from(int),
            _ => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::from(items.iter().map(value_of).collect::<Vec<_>>()),
        Json::Object(entries) => Value::from_pairs(entries.iter().map(|(key, value)| (key.as_str(), value_of(value)))),
    }
}

struct BoundedOutput {
    bytes: Vec<u8>,
    capacity: usize,
}

impl io::Write for BoundedOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.capacity {
            return Err(io::Error::other("output limit"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn describe(e: &Error) -> String {
    match e.detail() {
        Some(detail) => format!("{}: {detail}", e.kind()),
        None => e.kind().to_string(),
    }
}

/// `{% generation %}` marks assistant text for training and renders its body as it is: here it becomes `{% if true %}`.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        rest = tag;
        let Some(end) = tag.find("%}") else { break };
        let inner = &tag[..end];
        let name = inner.trim_matches(|c: char| c == '-' || c == '+' || c.is_whitespace());
        let replacement = match name {
            "generation" => "if true",
            "endgeneration" => "endif",
            _ => continue,
        };
        out.push_str(&inner.replace(name, replacement));
        rest = &tag[end..];
    }
    out.push_str(rest);
    out
}

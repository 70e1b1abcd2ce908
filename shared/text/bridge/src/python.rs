//! What Python and transformers give to chat templates and minijinja does not: `tojson` as json.dumps writes it,
//! `strftime_now`, and string methods with Python's idea of white space.

use std::ffi::CString;
use std::fmt::Write;

use minijinja::value::{from_args, Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

/// str.isspace of Python: Unicode's White_Space and the four information separators.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Methods of Python's str, list and dict.
pub fn call_method(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    if let (Some(text), true) = (value.as_str(), args.is_empty()) {
        match method {
            "strip" => return Ok(Value::from(text.trim_matches(is_space))),
            "lstrip" => return Ok(Value::from(text.trim_start_matches(is_space))),
            "rstrip" => return Ok(Value::from(text.trim_end_matches(is_space))),
            "split" => return Ok(text.split(is_space).filter(|part| !part.is_empty()).map(Value::from).collect()),
            _ => {}
        }
    }
    if let (Some(text), "removeprefix" | "removesuffix") = (value.as_str(), method) {
        let (affix,): (&str,) = from_args(args)?;
        let rest = if method == "removeprefix" { text.strip_prefix(affix) } else { text.strip_suffix(affix) };
        return Ok(Value::from(rest.unwrap_or(text)));
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}

/// The `trim` filter.
pub fn trim(text: &str, characters: Option<&str>) -> String {
    match characters {
        Some(set) => text.trim_matches(|c| set.contains(c)).to_string(),
        None => text.trim_matches(is_space).to_string(),
    }
}

/// The `tojson` filter of transformers: json.dumps(value, ensure_ascii=False, indent, separators, sort_keys). Nothing is
/// escaped for HTML, and keys keep their order.
pub fn to_json(value: &Value, indent: Option<usize>, options: Kwargs) -> Result<String, Error> {
    let indent = indent.or(options.get::<Option<usize>>("indent")?);
    let (item, colon) = match options.get::<Option<Vec<String>>>("separators")?.as_deref() {
        Some([item, colon]) => (item.clone(), colon.clone()),
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "tojson: separators must be two strings")),
        None => (if indent.is_some() { ",".into() } else { ", ".into() }, ": ".into()),
    };
    let writer = JsonWriter {
        indent,
        item,
        colon,
        ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    let mut out = String::new();
    writer.write(value, 0, &mut out)?;
    Ok(out)
}

struct JsonWriter {
    indent: Option<usize>,
    item: String,
    colon: String,
    ascii: bool,
    sort: bool,
}

/// json.dumps is recursive too, and stops at Python's limit of 1000.
const MAX_JSON_DEPTH: usize = 200;

impl JsonWriter {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        if depth > MAX_JSON_DEPTH {
            return Err(Error::new(ErrorKind::InvalidOperation, "tojson: value is nested too deeply"));
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&number(value)),
            ValueKind::String => self.write_string(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.write_items(&items, ('[', ']'), depth, out, |item, out| self.write(item, depth + 1, out))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort {
                    keys.sort();
                }
                self.write_items(&keys, ('{', '}'), depth, out, |key, out| {
                    match key.as_str() {
                        Some(text) => self.write_string(text, out),
                        None => self.write_string(&key.to_string(), out),
                    }
                    out.push_str(&self.colon);
                    self.write(&value.get_item(key)?, depth + 1, out)
                })?;
            }
            other => {
                let message = format!("tojson: a value of kind {other} is not JSON");
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        }
        Ok(())
    }

    fn write_items(
        &self,
        items: &[Value],
        brackets: (char, char),
        depth: usize,
        out: &mut String,
        write: impl Fn(&Value, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        out.push(brackets.0);
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                out.push_str(&self.item);
            }
            self.new_line(depth + 1, out);
            write(item, out)?;
        }
        if !items.is_empty() {
            self.new_line(depth, out);
        }
        out.push(brackets.1);
        Ok(())
    }

    fn new_line(&self, depth: usize, out: &mut String) {
        if let Some(width) = self.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', width * depth));
        }
    }

    fn write_string(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' || (self.ascii && c > '\u{7f}') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

/// As Python's repr writes a number: 1e+16, 1e-05, 0.0001, 1.0.
fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    let Ok(float) = f64::try_from(value.clone()) else { return value.to_string() };
    if !float.is_finite() {
        return if float.is_nan() {
            "NaN"
        } else if float > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        }
        .to_string();
    }
    let scientific = format!("{float:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>() {
        Ok(exponent) if (-4..16).contains(&exponent) => {
            let plain = format!("{float}");
            if plain.contains('.') {
                plain
            } else {
                plain + ".0"
            }
        }
        Ok(exponent) => format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs()),
        Err(_) => scientific,
    }
}

/// datetime.now().strftime(format) for a given moment, in the local time zone: Python too leaves the work to the C library.
pub fn strftime(format: &str, unix_seconds: i64) -> Result<String, Error> {
    // Longer than any date that a prompt states; strftime cannot tell "too long" from "empty".
    const MAX_FORMAT_BYTES: usize = 256;
    const MAX_RESULT_BYTES: usize = 4096;
    if format.len() > MAX_FORMAT_BYTES {
        return Err(Error::new(ErrorKind::InvalidOperation, "strftime_now: format is longer than 256 bytes"));
    }
    let c_format = CString::new(format)
        .map_err(|_| Error::new(ErrorKind::InvalidOperation, "strftime_now: format contains a zero byte"))?;
    let mut buffer = vec![0u8; MAX_RESULT_BYTES];
    // SAFETY: an all-zero tm is valid, both pointers outlive their calls, and the buffer's length is passed.
    let written = unsafe {
        let mut moment: libc::tm = std::mem::zeroed();
        let seconds: libc::time_t = unix_seconds;
        if libc::localtime_r(&seconds, &mut moment).is_null() {
            return Err(Error::new(ErrorKind::InvalidOperation, "strftime_now: the time has no date"));
        }
        libc::strftime(buffer.as_mut_ptr().cast(), buffer.len(), c_format.as_ptr(), &moment)
    };
    buffer.truncate(written);
    Ok(String::from_utf8_lossy(&buffer).into_owned())
}

//! Errors that cross to C++: a status code and a message, written as "<code>:<message>" because a bridged function can
//! only throw a string. shared/text/bridge_handles.h takes it apart.

use std::cell::RefCell;
use std::fmt;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Once;

/// The codes of absl::StatusCode that this crate uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    Cancelled = 1,
    InvalidArgument = 3,
    ResourceExhausted = 8,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
}

#[derive(Clone, Debug)]
pub struct TextError {
    pub code: Code,
    pub message: String,
}

pub type Result<T> = std::result::Result<T, TextError>;

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.code as i32, self.message)
    }
}

impl std::error::Error for TextError {}

pub fn error<T>(code: Code, message: impl Into<String>) -> Result<T> {
    Err(TextError { code, message: message.into() })
}

thread_local! {
    /// Where the last panic of this thread happened.
    static PANICKED_AT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs `body`; a panic in it (a bug, here or in a library) becomes INTERNAL instead of ending the process. The error says
/// where, and not what: a panic's message may quote the prompt. Nothing is printed, for the same reason.
pub fn guarded<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            let place = info.location().map_or(String::new(), |at| format!("{}:{}", at.file(), at.line()));
            PANICKED_AT.set(place);
        }));
    });
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| {
        let place = PANICKED_AT.take();
        // ~/.cargo/registry/src/<registry>/<crate>/src/file.rs:line: only what names the crate and the file.
        let in_registry = place.split_once("/registry/src/").and_then(|(_, path)| path.split_once('/'));
        let short = in_registry.map_or(place.as_str(), |(_, crate_path)| crate_path);
        error(Code::Internal, format!("the text library panicked at {short}"))
    })
}

/// UTF-8 or INVALID_ARGUMENT naming `what` and the offset of the first bad byte.
pub fn utf8<'a>(bytes: &'a [u8], what: &str) -> Result<&'a str> {
    std::str::from_utf8(bytes).or_else(|e| {
        error(Code::InvalidArgument, format!("{what} is not UTF-8: bad byte at offset {}; send UTF-8", e.valid_up_to()))
    })
}
